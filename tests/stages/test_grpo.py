"""The gradient of GRPO's step: what plain transformers gives row by row, however it is cut."""

import dataclasses
import statistics

import pytest
import torch
from torch.testing import assert_close

from hydralign.stages.grpo import GRPO
from tests.stages.test_gradients import CUTS, close, gradients, judged, moved

pytestmark = pytest.mark.usefixtures("small_groups")
ONE_STEP = {"minibatch_size": 8, "epochs": 1}
LIMIT = 5  # tokens of a response, in these tests


def kl_by_hand(kind, logprobs, reference):
    d = reference - logprobs
    return d * d / 2 if kind == "k2" else torch.exp(d) - 1 - d


def advantages_by_hand(scores, g, scale):
    advantages = []
    for start in range(0, len(scores), g):
        group = scores[start : start + g]
        deviation = statistics.stdev(group) + 1e-4 if scale else 1.0
        advantages += [(score - statistics.mean(group)) / deviation for score in group]
    return advantages


def loss_by_hand(stage, rollout):
    """The loss of one step on the whole rollout, and what each response counts with."""
    options = stage.options
    rows = list(judged(stage, rollout))
    finished, scores = rollout.responses.finished.tolist(), []
    for (logprobs, _, score), stopped in zip(rows, finished, strict=True):
        late = max(0, len(logprobs) - (LIMIT - (options.overlong_tokens or 0)))
        over = late / options.overlong_tokens if options.overlong_tokens else 0.0
        scores.append(score - (0.0 if stopped else options.missing_stop_penalty) - over)
    advantages = advantages_by_hand(scores, options.group_size, options.scale_advantages)
    losses, counted = [], 0
    for (logprobs, reference, _), advantage, stopped in zip(
        rows, advantages, finished, strict=True
    ):
        if options.mask_unfinished and not stopped:
            continue
        # The ratio is 1, so the gradient of -A * ratio is that of -A * logprob.
        kl = kl_by_hand(options.kl_estimator, logprobs, reference)
        losses.append((-advantage * logprobs + options.kl_coef * kl).sum())
        counted += len(logprobs)
    total = counted if options.denominator == "tokens" else len(rows) * LIMIT
    return sum(losses) / total, advantages, rows


CHANGES = [
    {},
    {"denominator": "constant"},
    {"kl_estimator": "k3"},
    {"scale_advantages": False},
    {"mask_unfinished": True},
    {"mask_unfinished": True, "denominator": "constant"},
    {"overlong_tokens": 2},
    {"missing_stop_penalty": 0.0},
]
NAMES = ["-".join(map(str, change.values())) or "default" for change in CHANGES]


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
@pytest.mark.parametrize("g", [2, 4])
def test_the_gradient_is_that_of_the_loss_by_hand(make_stage, make_data, fit, rollouts, change, g):
    settings = ONE_STEP | change | {"group_size": g, "rollout_batch_size": 8 // g, "kl_coef": 0.3}
    stage = moved(make_stage(GRPO, **settings))
    _, steps = fit(stage, make_data(stage))
    fresh = moved(make_stage(GRPO, **settings))
    loss, advantages, rows = loss_by_hand(fresh, rollouts[0])
    assert_close(steps.of(0)[0], gradients(loss, fresh.policy), **close)
    assert len(steps.of(0)) == 1
    assert set(rollouts[0].responses.finished.tolist()) == {True, False}
    assert len({len(logprobs) for logprobs, _, _ in rows}) > 2
    assert min(map(abs, advantages)) > 1e-3
    kl = torch.cat([logprobs.detach() - reference for logprobs, reference, _ in rows])
    assert kl.abs().mean() > 0.1


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("change", [{}, {"denominator": "constant"}, {"mask_unfinished": True}])
def test_the_cut_into_micro_batches_changes_nothing(make_stage, make_data, fit, size, change):
    found = []
    for cut in (4, size):
        stage = moved(make_stage(GRPO, **ONE_STEP, **change, micro_batch_size=cut))
        found.append(fit(stage, make_data(stage))[1].of(0)[0])
    assert_close(found[1], found[0], **close)


def with_finished(stage, finished):
    """The stage, that takes these responses for finished, whatever was sampled."""
    collect = stage.collect

    def collected(*args):
        rollout = collect(*args)
        responses = dataclasses.replace(rollout.responses, finished=torch.tensor(finished))
        return dataclasses.replace(rollout, responses=responses)

    stage.collect = collected
    return stage


@pytest.mark.parametrize("denominator", ["tokens", "constant"])
def test_nothing_is_learned_where_no_response_has_finished(make_stage, make_data, fit, denominator):
    settings = ONE_STEP | {"mask_unfinished": True, "denominator": denominator}
    stage, losses = with_finished(moved(make_stage(GRPO, **settings)), [False] * 8), []
    backward = stage.manual_backward
    stage.manual_backward = lambda loss: losses.append(loss.item()) or backward(loss)
    memory, steps = fit(stage, make_data(stage))
    assert all(not gradient.any() for gradient in steps.of(0)[0] if gradient is not None)
    assert losses == [0.0, 0.0]  # two micro-batches; no 0 / 0
    assert memory.series("policy/grad_norm") == [0.0]
    assert memory.series("policy/loss") == []  # the mean of none
    assert memory.series("policy/approx_kl") == [pytest.approx(0.0, abs=1e-6)]
    assert all(torch.isfinite(p).all() for p in stage.policy.trained_parameters())


def test_what_an_unfinished_response_said_still_counts_for_its_group(
    make_stage, make_data, fit, rollouts
):
    """It leaves the loss, not the mean that the others are compared with."""
    settings = ONE_STEP | {"mask_unfinished": True, "kl_coef": 0.0, "missing_stop_penalty": 3.0}
    stage = with_finished(moved(make_stage(GRPO, **settings)), [True] + [False] * 7)
    _, steps = fit(stage, make_data(stage))
    fresh = moved(make_stage(GRPO, **settings))
    (logprobs, _, mine), (_, _, other), *_ = judged(fresh, rollouts[0])
    a = advantages_by_hand([mine, other - 3.0], 2, True)[0]
    assert_close(steps.of(0)[0], gradients(-a * logprobs.mean(), fresh.policy), **close)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size=1"),
        ({"kl_estimator": "k1"}, "kl_estimator=k1"),
        ({"denominator": "rows"}, "denominator=rows"),
    ],
)
def test_settings_that_make_no_sense(make_stage, changes, message):
    with pytest.raises(ValueError, match=message):
        make_stage(GRPO, **changes)
