from functools import partial

import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.groups import (
    group_advantages,
    leave_one_out_advantages,
    overlong_penalty,
    zero_variance_share,
)

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-7, atol=1e-8)
HALF, ONE, NONE = [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]
SIGNS = [1, -1, -1, 1]
# Three groups of five. Dealt out the other way round they would be other groups.
THREE_OF_FIVE = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 10.0, 10.0, 10.0, 20.0, 7.0, 7.0, 7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        (HALF, {"eps": 1e-4}, [0.86587543 * s for s in SIGNS]),  # std .57735027, unbiased
        (HALF, {}, [0.86587543 * s for s in SIGNS]),
        (HALF, {"eps": 1e-6}, [0.8660239 * s for s in SIGNS]),
        (HALF, {"scale": False}, [0.5 * s for s in SIGNS]),
        (ONE, {}, [1.49970006, -0.49990002, -0.49990002, -0.49990002]),
        (ONE, {"scale": False}, [0.75, -0.25, -0.25, -0.25]),
        (NONE, {}, [0.0] * 4),
        (NONE, {"scale": False}, [0.0] * 4),
    ],
)
def test_advantages_in_deviations_of_the_group(scores, options, expected):
    assert_close(group_advantages(f64(scores), 4, **options), f64(expected), rtol=1e-7, atol=5e-9)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (HALF, [2 / 3 * s for s in SIGNS]),
        (ONE, [1.0, -1 / 3, -1 / 3, -1 / 3]),
        (NONE, [0.0] * 4),
        ([3.0, 1.0, 10.0, 30.0], [-32 / 3, -40 / 3, -4 / 3, 76 / 3]),  # 3 - 41/3, ...
    ],
)
def test_advantages_over_the_others(scores, expected):
    close(leave_one_out_advantages(f64(scores), 4), f64(expected))


def test_groups_stand_in_line():
    scores = f64(THREE_OF_FIVE)
    centred = [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0, -2.0, -2.0, -2.0, 8.0, *[0.0] * 5]
    close(group_advantages(scores, 5, scale=False), f64(centred))
    # deviations sqrt(10 / 4) and sqrt(80 / 4)
    scaled = [x / 1.5812388301 for x in centred[:5]] + [x / 4.4722359550 for x in centred[5:]]
    close(group_advantages(scores, 5), f64(scaled))
    others = [-2.5, -1.25, 0.0, 1.25, 2.5, -2.5, -2.5, -2.5, -2.5, 10.0, *[0.0] * 5]
    close(leave_one_out_advantages(scores, 5), f64(others))
    close(zero_variance_share(scores, 5), torch.tensor(1 / 3))


def test_a_group_of_two():
    scores = f64([1.0, 4.0, -2.0, -2.0, 0.0, -1.0])
    close(group_advantages(scores, 2, scale=False), f64([-1.5, 1.5, 0.0, 0.0, 0.5, -0.5]))
    close(leave_one_out_advantages(scores, 2), f64([-3.0, 3.0, 0.0, 0.0, 1.0, -1.0]))
    assert zero_variance_share(scores, 2).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_two_differ_by_a_factor_without_the_division(k):
    scores = torch.randn(5 * k, generator=torch.Generator().manual_seed(0)).double()
    unscaled = group_advantages(scores, k, scale=False)
    assert unscaled.abs().max() > 0.5
    close(leave_one_out_advantages(scores, k), k / (k - 1) * unscaled)
    for advantages in (unscaled, group_advantages(scores, k)):
        close(advantages.reshape(5, k).sum(1), torch.zeros(5).double())


@pytest.mark.parametrize("function", [group_advantages, leave_one_out_advantages])
def test_what_all_scores_have_in_common_does_not_count(function):
    scores = torch.randn(15, generator=torch.Generator().manual_seed(1)).double()
    of_prompt = f64([-30.0, 0.0, 50.0]).repeat_interleave(5)
    close(function(scores + of_prompt, 5), function(scores, 5))


@pytest.mark.parametrize("score", [0.1, -1.7, 1234.1])
@pytest.mark.parametrize("k", [2, 5, 7])
def test_equal_scores_teach_nothing_whatever_their_rounding(score, k):
    scores = torch.full((3 * k,), score)  # fp32: their mean is not always the score
    assert torch.equal(group_advantages(scores, k), torch.zeros(3 * k))
    assert torch.equal(group_advantages(scores, k, scale=False), torch.zeros(3 * k))
    assert torch.equal(leave_one_out_advantages(scores, k), torch.zeros(3 * k))
    assert zero_variance_share(scores, k) == 1


@pytest.mark.parametrize(
    "function", [group_advantages, leave_one_out_advantages, zero_variance_share]
)
def test_a_single_response_has_none_to_stand_beside(function):
    with pytest.raises(ValueError, match="group_size=1"):
        function(torch.zeros(4), 1)
    with pytest.raises(RuntimeError):  # no whole groups
        function(torch.zeros(4), 3)


def test_share_of_groups_that_teach_nothing():
    assert zero_variance_share(f64(NONE + HALF + NONE + ONE), 4) == 0.5
    assert zero_variance_share(f64(HALF), 4) == 0
    assert zero_variance_share(f64([1.0, 1.0 + 1e-9]), 2) == 0


def test_a_response_pays_for_coming_near_the_limit():
    lengths = torch.tensor([1, 15, 16, 17, 18, 19, 20, 21])
    penalty = overlong_penalty(lengths, 20, 4)
    assert penalty.tolist() == [0.0, 0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0]
    assert overlong_penalty(lengths, 20, 1).tolist() == [0.0] * 6 + [-1.0] * 2
