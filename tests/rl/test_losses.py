import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.losses import (
    clipped_tokens,
    explained_variance,
    policy_loss_terms,
    value_loss_terms,
)

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-8, atol=1e-12)
NAN = float("nan")

# ratio, advantage, options, loss, d loss / d logprob (= -advantage * ratio where not clipped)
POLICY_CASES = [
    (1.0, 1.0, {}, -1.0, -1.0),
    (1.5, 1.0, {}, -1.2, 0.0),
    (1.5, -1.0, {}, 1.5, 1.5),
    (0.5, 1.0, {}, -0.5, -0.5),
    (0.5, -1.0, {}, 0.8, 0.0),
    (math.exp(-1), 1.0, {}, -0.36787944117, -0.36787944117),
    (5.0, -1.0, {}, 5.0, 5.0),
    (5.0, -1.0, {"dual_clip": 3.0}, 3.0, 0.0),
    (2.0, -1.0, {"dual_clip": 3.0}, 2.0, 2.0),  # below the dual clip: nothing happens
    (5.0, 2.0, {"dual_clip": 3.0}, -2.4, 0.0),  # the dual clip is for negative advantages only
    (0.5, 1.0, {"dual_clip": 3.0}, -0.5, -0.5),
    (0.5, -1.0, {"dual_clip": 3.0}, 0.8, 0.0),
    (5.0, -2.0, {"dual_clip": 3.0}, 6.0, 0.0),
    (1.25, 1.0, {"clip_range_high": 0.28}, -1.25, -1.25),
    (1.35, 1.0, {"clip_range_high": 0.28}, -1.28, 0.0),
    (0.75, -1.0, {"clip_range_high": 0.28}, 0.8, 0.0),  # the lower side keeps .2
    (0.5, 0.0, {}, 0.0, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "options", "loss", "slope"), POLICY_CASES)
def test_policy_loss_and_its_gradient(ratio, advantage, options, loss, slope):
    old_logprobs = f64([[-1.7]])
    logprobs = (old_logprobs + math.log(ratio)).requires_grad_()
    terms = policy_loss_terms(logprobs, old_logprobs, f64([[advantage]]), clip_range=0.2, **options)
    close(terms.detach(), f64([[loss]]))
    terms.sum().backward()
    close(logprobs.grad, f64([[slope]]))


def test_policy_loss_of_a_batch_agrees_with_the_piecewise_definition():
    generator = torch.Generator().manual_seed(4)
    log_ratio, advantages = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    old = torch.full((3, 5), -2.0, dtype=torch.float64)
    terms = policy_loss_terms(old + log_ratio, old, advantages, clip_range=0.1, clip_range_high=0.3)
    ratio, a = np.exp(log_ratio.numpy()), advantages.numpy()
    gains = np.where(a > 0, a * np.minimum(ratio, 1.3), a * np.maximum(ratio, 0.9))
    close(terms, torch.from_numpy(-gains))


def test_log_ratio_is_clamped_at_twenty_so_the_loss_stays_finite():
    logprobs = f64([[1000.0, -1000.0, 1000.0]]).requires_grad_()
    old, advantages = f64([[0.0, 0.0, 0.0]]), f64([[-1.0, 1.0, 1.0]])
    terms = policy_loss_terms(logprobs, old, advantages, clip_range=0.2)
    close(terms.detach(), f64([[4.85165195409790e8, -2.06115362243856e-9, -1.2]]))  # e^20, e^-20
    terms.sum().backward()
    assert torch.isfinite(logprobs.grad).all()


def test_log_ratios_below_twenty_are_not_clamped():
    terms = policy_loss_terms(f64([[19.0]]), f64([[0.0]]), f64([[-1.0]]), clip_range=0.2)
    close(terms, f64([[1.78482300963187e8]]))  # e^19


RATIOS, SIGNS = [1.0, 1.5, 1.5, 0.5, 0.5, 1.25, 0.75, 0.5], [1, 1, -1, 1, -1, 1, -1, 0]


@pytest.mark.parametrize(
    ("high", "expected"),
    [(None, [0, 1, 0, 0, 1, 1, 1, 0]), (0.28, [0, 1, 0, 0, 1, 0, 1, 0])],
)
def test_clipped_tokens_are_those_whose_clipped_branch_is_active(high, expected):
    old = torch.full((8, 1), -1.0, dtype=torch.float64)
    logprobs = old + f64(RATIOS).log().unsqueeze(1)
    advantages = f64(SIGNS).unsqueeze(1)
    clipped = clipped_tokens(logprobs, old, advantages, clip_range=0.2, clip_range_high=high)
    assert clipped.dtype == torch.bool
    assert clipped.squeeze(1).int().tolist() == expected


# value, old value, return, clip, loss, d loss / d value (= value - return where not clipped)
VALUE_CASES = [
    (1.0, 0.0, 2.0, 0.2, 1.62, 0.0),  # .5 * (.2 - 2)^2
    (1.0, 0.0, -1.0, 0.2, 2.0, 2.0),  # .5 * (1 + 1)^2 beats .5 * (.2 + 1)^2
    (-1.0, 0.0, -2.0, 0.2, 1.62, 0.0),  # the lower side
    (0.6, 0.5, 1.0, 0.2, 0.08, -0.4),  # inside the range
    (1.0, 0.0, 2.0, None, 0.5, -1.0),
    (1.0, 0.0, -1.0, None, 2.0, 2.0),
]


@pytest.mark.parametrize(("value", "old", "target", "clip", "loss", "slope"), VALUE_CASES)
def test_value_loss_and_its_gradient(value, old, target, clip, loss, slope):
    values = f64([[value]]).requires_grad_()
    terms = value_loss_terms(values, f64([[old]]), f64([[target]]), value_clip_range=clip)
    close(terms.detach(), f64([[loss]]))
    terms.sum().backward()
    close(values.grad, f64([[slope]]))


def test_value_loss_is_per_token():
    values, old, returns = torch.zeros(3, 3, 5, dtype=torch.float64)
    assert value_loss_terms(values, old, returns, value_clip_range=0.2).shape == (3, 5)


def test_explained_variance_is_over_kept_tokens_and_forgives_a_constant_error():
    returns = f64([[1.0, 2.0, NAN], [3.0, NAN, 9.0]])
    values = f64([[1.0, 2.0, 7.0], [4.0, 3.0, NAN]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # residuals 0, 0, -1: variance 2/9; returns 1, 2, 3: variance 2/3; 1 - 1/3
    close(explained_variance(values, returns, mask), f64(2 / 3))
    close(explained_variance(returns + 5, returns, mask), f64(1.0))
    close(explained_variance(torch.zeros(2, 3).double(), returns, mask), f64(0.0))
    close(explained_variance(-returns, returns, mask), f64(-3.0))  # var(2 R) = 4 var(R)
