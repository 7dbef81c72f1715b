"""Intervals for figures measured on a sample."""

from collections.abc import Sequence

import torch
from torch import Tensor


def bootstrap_interval(
    groups: Sequence[Tensor], *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over all values, whole groups drawn at a time.

    Efron and Tibshirani 1993, chapter 13.

    Args:
        groups: (n,) values each; those in one group are not independent of each other.
        seed: of the resampling.
        resamples: how many.
        level: of the interval.

    Returns:
        its lower and upper end.
    """
    sums = torch.stack([group.cpu().double().sum() for group in groups])
    counts = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(groups), (resamples, len(groups)), generator=generator)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
