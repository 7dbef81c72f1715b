"""SFT, reward and PPO, each starting from what the one before has saved."""

import pytest
import torch
from torch.testing import assert_close

from hydralign.models.assembly import StartingPoint
from hydralign.models.saving import save_role
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward
from hydralign.stages.sft import SFT


@pytest.fixture
def run(make_stage, make_data, fit, context, tmp_path):
    """Trains a stage and saves what it is for; returns it with its starting point."""

    def run_one(kind, starts, **changes):
        stage = make_stage(kind, starts=starts, **changes)
        memory, _ = fit(stage, make_data(stage))
        product = getattr(stage, stage.product)
        (tmp_path / kind.__name__).mkdir()
        save_role(product, context.codec, tmp_path / kind.__name__)
        head = getattr(product, "head", None)
        scale = (0.0, 1.0) if head is None else (head.mean.item(), head.std.item())
        return stage, StartingPoint(str(tmp_path / kind.__name__), *scale), memory

    return run_one


def test_each_stage_starts_where_the_one_before_ended(run, make_stage, sequences):
    sft, policy, _ = run(SFT, None, steps=4)
    learned = sft.policy(sequences)
    reward, reward_model, _ = run(Reward, {"policy": policy}, steps=4)
    assert_close(reward.policy(sequences), learned, rtol=1e-6, atol=1e-6)
    starts = {"policy": policy, "reward_model": reward_model}
    ppo = make_stage(PPO, starts=starts)
    for role in (ppo.policy, ppo.reference):
        assert_close(role(sequences), learned, rtol=1e-6, atol=1e-6)
    expected = reward.reward_model.scores(sequences)
    assert expected.std() > 0.1
    for role in (ppo.reward_model, ppo.value_model):
        assert_close(role.scores(sequences), expected, rtol=1e-5, atol=1e-5)
    ppo, trained, memory = run(PPO, starts, rollouts=3)
    assert memory.series("kl/per_sequence")[0] == 0.0
    assert torch.equal(
        ppo.reference(sequences),
        make_stage(PPO, starts=starts).reference(sequences),
    )
    again = make_stage(PPO, starts={"policy": trained, "reward_model": reward_model})
    expected = ppo.policy(sequences)
    assert_close(again.policy(sequences), expected, rtol=1e-6, atol=1e-6)


def test_a_reward_model_starts_with_the_states_of_the_policy(run, make_stage, sequences):
    sft, policy, _ = run(SFT, None, steps=2)
    reward = make_stage(Reward, starts={"policy": policy})
    inputs = {"input_ids": sequences.sequence_ids, "attention_mask": sequences.attention_mask}
    with torch.no_grad():
        expected, states = sft.policy.network(**inputs), reward.reward_model.network(**inputs)
    assert_close(states, expected, rtol=1e-6, atol=1e-6)
