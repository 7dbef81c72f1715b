"""Means and maxima over pieces of unequal size."""

import torch
from torch import Tensor

from hydralign.rl.masks import masked_sum


class Averages:
    """Collects sums and counts by name, so that a mean over micro-batches is no mean of means."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._maxima: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Add values of any shape, or those of them that the mask keeps."""
        values = values.detach().float()
        mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        self._sums[name] = self._sums.get(name, 0.0) + masked_sum(values, mask).item()
        self._counts[name] = self._counts.get(name, 0.0) + mask.sum().item()

    def add_max(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Keep the largest of the values that the mask keeps."""
        largest = torch.where(mask, values.detach().float(), -torch.inf).max()
        self._maxima[name] = torch.maximum(largest, self._maxima.get(name, largest))

    def means(self) -> dict[str, float]:
        """Return the mean of each name, and the maximum of those added as such."""
        means = {name: total / max(self._counts[name], 1) for name, total in self._sums.items()}
        return means | {name: largest.item() for name, largest in self._maxima.items()}
