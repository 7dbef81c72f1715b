"""PPO's losses per token, and the ways to bring them down to one number.

Losses come per token so that a step may be cut into micro-batches: the sum over all of them is
divided by one denominator, the counted tokens of the whole step.
"""

import torch
from torch import Tensor

from hydralign.rl.masks import masked_mean, masked_sum, masked_var

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this size before exp(), which would overflow."""


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def policy_loss_terms(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped policy loss, Schulman et al. 2017 (arXiv 1707.06347), equation 7, negated.

    Args:
        logprobs: (b, r) with gradient.
        old_logprobs: (b, r) at sampling time.
        advantages: (b, r).
        clip_range: the ratio may fall to 1 - clip_range.
        clip_range_high: the ratio may rise to 1 + clip_range_high; clip_range if None.
        dual_clip: bound on ratio * |advantage| for negative advantages (arXiv 1912.09729), above 1.

    Returns:
        (b, r) loss per token, before any mask.
    """
    ratio = _ratio(logprobs, old_logprobs)
    high = clip_range if clip_range_high is None else clip_range_high
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped_ratio)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


def clipped_tokens(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> Tensor:
    """Mark the tokens whose policy gradient the clipping has cut to 0.

    Args:
        logprobs: (b, r).
        old_logprobs: (b, r).
        advantages: (b, r).
        clip_range: as in the loss.
        clip_range_high: as in the loss.

    Returns:
        (b, r) bool, before any mask.
    """
    ratio = _ratio(logprobs, old_logprobs)
    high = clip_range if clip_range_high is None else clip_range_high
    too_high = (advantages > 0) & (ratio > 1 + high)
    too_low = (advantages < 0) & (ratio < 1 - clip_range)
    return too_high | too_low


def value_loss_terms(
    values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip_range: float | None
) -> Tensor:
    """Half the squared error of the value model, the worse of plain and clipped.

    Args:
        values: (b, r) with gradient.
        old_values: (b, r) at sampling time.
        returns: (b, r) targets.
        value_clip_range: how far a value may move from its old one, in units of the score; None
            leaves the clipping out.

    Returns:
        (b, r) loss per token, before any mask.
    """
    loss = (values - returns).square()
    if value_clip_range is None:
        return 0.5 * loss
    moved = (values - old_values).clamp(-value_clip_range, value_clip_range)
    return 0.5 * torch.maximum(loss, (old_values + moved - returns).square())


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Scalar 1 - var(returns - values) / var(returns) over the mask: 1 is perfect, 0 a constant.

    Args:
        values: (b, r).
        returns: (b, r).
        mask: (b, r) bool.
    """
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-8)


def token_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean over all counted tokens of (b, r) terms: long responses weigh more."""
    return masked_mean(terms, mask)


def sequence_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean over rows of each row's token mean of (b, r) terms: all rows weigh the same."""
    return masked_mean(terms, mask, dim=-1).mean()


def sequence_sum_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean over rows of each row's token sum of (b, r) terms."""
    return masked_sum(terms, mask, dim=-1).mean()


def constant_length_mean(terms: Tensor, mask: Tensor, length: int) -> Tensor:
    """Scalar sum of (b, r) terms over b * length, a constant (Dr. GRPO, arXiv 2503.20783)."""
    return masked_sum(terms, mask) / (terms.shape[0] * length)
