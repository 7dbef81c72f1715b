"""Cutting a rollout into minibatches (optimizer steps) and micro-batches (memory)."""

from collections.abc import Iterator

import torch
from torch import Tensor


def iterate_minibatches(
    rows: int, minibatch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Go once over all rows in a fresh order.

    Args:
        rows: how many there are; a multiple of minibatch_size.
        minibatch_size: rows per optimizer step.
        generator: source of the permutation.

    Yields:
        (minibatch_size,) row indices; together every row once.

    Raises:
        ValueError: if minibatch_size does not divide rows.
    """
    if rows % minibatch_size:
        raise ValueError(f"minibatch_size={minibatch_size} does not divide {rows} rows")
    yield from torch.split(torch.randperm(rows, generator=generator), minibatch_size)


def split_micro_batches(indices: Tensor, micro_batch_size: int) -> tuple[Tensor, ...]:
    """Cut (n,) row indices into pieces that fit in memory; the last may be shorter."""
    return torch.split(indices, micro_batch_size)
