"""What a response is worth beside the others of its group, so that no value model is needed."""

import torch
from torch import Tensor


def group_advantages(
    scores: Tensor, group_size: int, *, scale: bool = True, eps: float = 1e-4
) -> Tensor:
    """How far each score lies above the mean of its group, in standard deviations of the group.

    GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.2. A group of equal scores gives 0.

    Args:
        scores: (b,), groups in line.
        group_size: responses to each prompt, at least 2.
        scale: False leaves the division out: it lets groups count more whose scores hardly differ
            (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783).
        eps: added to the standard deviation, which is the unbiased one.

    Returns:
        (b,).

    Raises:
        ValueError: if a group has a single response.
    """
    grouped = _grouped(scores, group_size)
    centred = grouped - grouped.mean(-1, keepdim=True)
    if scale:
        centred = centred / (grouped.std(-1, keepdim=True) + eps)
    return centred.flatten()


def leave_one_out_advantages(scores: Tensor, group_size: int) -> Tensor:
    """How far each score lies above the mean of the others in its group: an unbiased baseline.

    RLOO, Kool et al. 2019, and Ahmadian et al. 2024 (arXiv 2402.14740), section 3.3.

    Args:
        scores: (b,), groups in line.
        group_size: responses to each prompt, at least 2.

    Returns:
        (b,).

    Raises:
        ValueError: if a group has a single response.
    """
    grouped = _grouped(scores, group_size)
    others = (grouped.sum(-1, keepdim=True) - grouped) / (group_size - 1)
    return (grouped - others).flatten()


def zero_variance_share(scores: Tensor, group_size: int) -> Tensor:
    """Scalar share of groups whose (b,) scores are all equal: they teach nothing."""
    grouped = _grouped(scores, group_size)
    return (grouped.amax(-1) == grouped.amin(-1)).float().mean()


def overlong_penalty(lengths: Tensor, limit: int, margin: int) -> Tensor:
    """What a response pays for coming near the length limit, from 0 down to -1.

    Soft overlong punishment, Yu et al. 2025 (DAPO, arXiv 2503.14476), equation 13.

    Args:
        lengths: (b,) tokens of each response.
        limit: the most tokens that a response may have.
        margin: tokens before it over which the penalty grows.

    Returns:
        (b,).
    """
    return ((limit - margin - lengths) / margin).clamp(-1.0, 0.0)


def _grouped(scores: Tensor, group_size: int) -> Tensor:
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a single response has none to stand beside")
    grouped = torch.unflatten(scores, 0, (-1, group_size))
    # Less the first of each group: no result depends on it, and equal scores leave no rounding
    # behind, which the division by a deviation near 0 would make large.
    return grouped - grouped[:, :1]
