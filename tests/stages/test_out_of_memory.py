"""Memory that does not suffice, injected into passes of each kind: the run learns the same."""

import pytest
import torch
from torch.testing import assert_close

from hydralign.stages.dpo import DPO
from hydralign.stages.grpo import GRPO
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward
from hydralign.stages.rloo import RLOO
from hydralign.stages.sft import SFT

TRAINED = {
    SFT: ["policy"],
    Reward: ["reward_model"],
    DPO: ["policy"],
    PPO: ["policy", "value_model"],
    GRPO: ["policy"],
    RLOO: ["policy"],
}
LOGGED = {
    SFT: ["policy/loss"],
    Reward: ["reward/loss"],
    DPO: ["dpo/loss"],
    PPO: ["policy/loss", "value/loss"],
    GRPO: ["policy/loss"],
    RLOO: ["policy/loss"],
}


def weights(stage):
    roles = [getattr(stage, name) for name in TRAINED[type(stage)]]
    return [p.detach().clone() for role in roles for p in role.trained_parameters()]


def short_of_memory(network, when, limit):
    """Make a network fail, after it has gone forward, where a pass has more rows than fit.

    Args:
        when: of the input's width and whether there are gradients: which passes are meant.
    """
    forward, failed = network.forward, []

    def failing(*args, **kwargs):
        found = forward(*args, **kwargs)
        rows, width = kwargs["input_ids"].shape
        if packed := kwargs.get("packed_rows"):
            rows, width = sum(group.shape[0] for group in packed.groups), packed.width
        if when(width, torch.is_grad_enabled()) and rows > limit:
            failed.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    network.forward = failing
    return failed


@pytest.mark.parametrize("kind", [SFT, Reward, DPO, PPO, GRPO, RLOO])
def test_training_goes_on_in_smaller_pieces_and_learns_the_same(make_stage, make_data, fit, kind):
    settings = {"rollouts": 2} if kind in (PPO, GRPO, RLOO) else {"steps": 2}
    stage, short = (make_stage(kind, micro_batch_size=4, **settings) for _ in range(2))
    expected, steps = fit(stage, make_data(stage))
    limit = 6 if kind in (Reward, DPO) else 3  # a comparison has several rows
    name = TRAINED[kind][-1]  # in PPO the value model: its size is the policy's too
    failed = short_of_memory(getattr(short, name).network, lambda width, grad: grad, limit)
    logged, others = fit(short, make_data(short))
    assert failed
    assert short.context.training.size < 4
    assert len(others.steps) == len(steps.steps)
    assert_close(weights(short), weights(stage), rtol=1e-3, atol=1e-4)
    for name in LOGGED[kind]:
        assert len(logged.series(name)) == 2
        assert_close(logged.series(name), expected.series(name), rtol=1e-3, atol=1e-4)


def test_a_backward_pass_that_fails_half_way_leaves_nothing_behind(
    make_stage, make_data, fit, monkeypatch
):
    """The gradient of the micro-batch before would count twice."""
    stage, short = make_stage(SFT), make_stage(SFT)
    _, expected = fit(stage, make_data(stage))
    backward, calls = short.manual_backward, []

    def failing(loss):
        backward(loss)
        calls.append(loss)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(short, "manual_backward", failing)
    _, got = fit(short, make_data(short))
    assert len(calls) == 2 + 4  # two of four, then four of two
    for one, other in zip(expected.of(0)[0], got.of(0)[0], strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_sampling_and_scoring_give_way_each_by_itself(make_stage, make_data, fit):
    stage, short = make_stage(PPO), make_stage(PPO)
    fit(stage, make_data(stage), test=True)
    sampling = short_of_memory(short.policy.network, lambda width, grad: width == 1, 2)
    scoring = short_of_memory(short.reward_model.network, lambda width, grad: True, 1)
    fit(short, make_data(short), test=True)
    assert sampling
    assert scoring
    sizes = [getattr(short.context, name).size for name in ("training", "scoring", "generation")]
    assert sizes == [4, 1, 2]
    assert_close(weights(short), weights(stage), rtol=1e-3, atol=1e-4)
    assert short.samples[0].after == stage.samples[0].after


def test_judging_that_is_cut_in_the_first_rollout_is_no_sign_of_another_network(
    make_stage, make_data, fit
):
    stage = make_stage(PPO)
    scored = []

    def after_the_policy(width, grad):
        scored.append(width)
        return len(scored) == 2

    failed = short_of_memory(stage.reference.network, after_the_policy, 2)
    fit(stage, make_data(stage))
    assert failed
    assert stage.rollout_step == 1
