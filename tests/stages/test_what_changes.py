"""A stage changes the weights of the role that it trains, to the last bit nothing else."""

import pytest
import torch

from hydralign.stages.grpo import GRPO
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward
from hydralign.stages.rloo import RLOO
from hydralign.stages.sft import SFT


def owner(name, kind):
    """Whose a tensor of a stage is: a role's, or the shared base's."""
    parts = name.split(".")
    if ".lora_" in name:
        return parts[-2]
    return "base" if kind == "lora" and "head" not in parts[:2] else parts[0]


def weights(stage, kind):
    """Every tensor of a stage, copied, and whose it is."""
    return {
        name: (owner(name, kind), tensor.clone()) for name, tensor in stage.state_dict().items()
    }


def changes(stage, before, kind):
    """Names of the tensors that differ, and their owners."""
    after = weights(stage, kind)
    assert after.keys() == before.keys()
    changed = [name for name in before if not torch.equal(before[name][1], after[name][1])]
    return changed, {before[name][0] for name in changed}


CASES = [
    (SFT, {"steps": 2}, {"policy"}),
    (Reward, {"steps": 2}, {"reward_model"}),
    (PPO, {"rollouts": 2}, {"policy", "value_model"}),
    (GRPO, {"rollouts": 2}, {"policy"}),
    (RLOO, {"rollouts": 2}, {"policy"}),
]


@pytest.mark.parametrize(("stage_class", "changed", "expected"), CASES)
def test_only_what_trains_changes(toys, make_stage, make_data, fit, stage_class, changed, expected):
    stage = make_stage(stage_class, **changed)
    before = weights(stage, toys.kind)
    assert set(stage_class.roles) <= {who for who, _ in before.values()} | {"policy"}
    fit(stage, make_data(stage), test=True)
    assert changes(stage, before, toys.kind)[1] == expected


def test_ppo_changes_all_that_trains(toys, make_stage, make_data, fit):
    stage = make_stage(PPO, rollouts=2)
    before = weights(stage, toys.kind)
    fit(stage, make_data(stage))
    changed, _ = changes(stage, before, toys.kind)
    still = {
        name
        for name, (who, _) in before.items()
        if who in ("policy", "value_model") and name not in changed
    }
    # The scale of the scores is the reward model's; the head it was saved with has been copied.
    expected = {"value_model.head.mean", "value_model.head.std"}
    copied = {"value_model.network.language_model.score.weight"} if toys.kind == "own" else set()
    assert still == expected | copied
    optimized = [
        {id(p) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in stage.trainer.optimizers
    ]
    assert not optimized[0] & optimized[1]
    trained = {id(p) for p in stage.parameters() if p.requires_grad}
    assert optimized[0] | optimized[1] == trained


def test_reward_training_scales_its_own_head_only(toys, make_stage, make_data, fit):
    stage = make_stage(Reward, steps=2)
    before = weights(stage, toys.kind)
    fit(stage, make_data(stage))
    changed, _ = changes(stage, before, toys.kind)
    assert {"reward_model.head.mean", "reward_model.head.std"} <= set(changed)
