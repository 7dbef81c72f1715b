"""Masks, and reductions under them. True always means keep."""

import torch
from torch import Tensor


def position_ids(attention_mask: Tensor) -> Tensor:
    """Number the real tokens of each row from 0, so that padding does not shift positions.

    Args:
        attention_mask: (b, t) bool, True = real token.

    Returns:
        (b, t) positions; 0 on the padding before the first real token.
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def response_mask_from_stops(response_ids: Tensor, stop_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mark the tokens of a sampled response up to and including its first stop token.

    Args:
        response_ids: (b, r) sampled tokens; what follows a stop token may be anything.
        stop_ids: (s,) the ids that end a response.

    Returns:
        response_mask (b, r), True up to and including the first stop token (everywhere if there is
        none), and finished (b,), True where a stop token occurred.
    """
    is_stop = torch.isin(response_ids, stop_ids)
    stops_before = is_stop.long().cumsum(dim=-1) - is_stop.long()
    return stops_before == 0, is_stop.any(dim=-1)


def last_token_index(response_mask: Tensor) -> Tensor:
    """Return the (b,) index of the last counted token of a (b, r) mask; -1 where none counts."""
    r = response_mask.shape[-1]
    index = torch.arange(r, device=response_mask.device)
    return torch.where(response_mask, index, -1).amax(dim=-1)


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum what the mask keeps. What it drops may be anything, NaN included.

    Args:
        x: any shape, such as (b, r).
        mask: bool, the shape of x.
        dim: the dimension to sum; all of them if None.
    """
    return torch.where(mask, x, torch.zeros_like(x)).sum(dim=dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Average what the mask keeps; 0 where it keeps nothing.

    Args:
        x: any shape, such as (b, r).
        mask: bool, the shape of x.
        dim: the dimension to average; all of them if None.
    """
    count = mask.sum() if dim is None else mask.sum(dim=dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Biased variance (division by n) of what the mask keeps.

    Args:
        x: any shape, such as (b, r).
        mask: bool, the shape of x.
    """
    # Filled before squaring: a NaN that is dropped afterwards still spoils the gradient.
    centred = torch.where(mask, x - masked_mean(x, mask), torch.zeros_like(x))
    return masked_mean(centred.square(), mask)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale what the mask keeps to variance 1 and, unless told otherwise, shift it to mean 0.

    The variance is the biased one, as in openai/lm-human-preferences.

    Args:
        x: (b, r) values.
        mask: (b, r) bool.
        shift_mean: False keeps the original mean, which is how rewards are whitened.
        eps: added to the variance before its square root.

    Returns:
        (b, r), 0 where the mask drops.
    """
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_var(x, mask) + eps)
    whitened = whitened if shift_mean else whitened + mean
    return torch.where(mask, whitened, torch.zeros_like(x))
