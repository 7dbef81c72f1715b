"""The gradient of RLOO's step: what plain transformers gives row by row, however it is cut."""

import pytest
import torch
from torch.testing import assert_close

from hydralign.stages.rloo import RLOO
from tests.stages.test_gradients import CUTS, close, gradients, judged, moved

pytestmark = pytest.mark.usefixtures("small_groups")
ONE_STEP = {"minibatch_size": 8, "epochs": 1}


def loss_by_hand(stage, rollout):
    """The loss of one step on the whole rollout, and its rows."""
    options, g = stage.options, stage.options.group_size
    rows = list(judged(stage, rollout))
    rewards = []
    for (logprobs, reference, score), stopped in zip(
        rows, rollout.responses.finished.tolist(), strict=True
    ):
        kl = (logprobs.detach() - reference).sum().item()
        penalty = 0.0 if stopped else options.missing_stop_penalty
        rewards.append(score - penalty - options.kl_coef * kl)
    loss = 0.0
    for row, (logprobs, _, _) in enumerate(rows):
        start = row // g * g
        others = [rewards[other] for other in range(start, start + g) if other != row]
        advantage = rewards[row] - sum(others) / (g - 1)
        # The ratio is 1, so the gradient of -A * ratio is that of -A * logprob.
        loss = loss - advantage * logprobs.sum() / len(rows)
    return loss, rows


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize(
    ("g", "change"),
    [(2, {}), (4, {}), (2, {"missing_stop_penalty": 0.0}), (4, {"kl_coef": 0.0})],
)
def test_the_gradient_is_that_of_the_loss_by_hand(
    make_stage, make_data, fit, rollouts, size, g, change
):
    settings = ONE_STEP | {"group_size": g, "rollout_batch_size": 8 // g, "kl_coef": 0.3} | change
    stage = moved(make_stage(RLOO, **settings, micro_batch_size=size))
    _, steps = fit(stage, make_data(stage))
    fresh = moved(make_stage(RLOO, **settings))
    loss, rows = loss_by_hand(fresh, rollouts[0])
    assert_close(steps.of(0)[0], gradients(loss, fresh.policy), **close)
    assert len(steps.of(0)) == 1
    assert set(rollouts[0].responses.finished.tolist()) == {True, False}
    assert len({len(logprobs) for logprobs, _, _ in rows}) > 2
    kl = torch.cat([logprobs.detach() - reference for logprobs, reference, _ in rows])
    assert kl.abs().mean() > 0.1


def test_a_response_in_a_group_of_its_own_makes_no_sense(make_stage):
    with pytest.raises(ValueError, match="group_size=1"):
        make_stage(RLOO, group_size=1)
