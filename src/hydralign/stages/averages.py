"""Means and maxima over pieces of unequal size."""

from math import isfinite

import torch
from torch import Tensor

from hydralign.ranks import Ranks
from hydralign.rl.masks import masked_sum


class Averages:
    """Collects sums and counts by name, so that a mean over micro-batches is no mean of means."""

    def __init__(self, ranks: Ranks | None = None) -> None:
        """Start empty.

        Args:
            ranks: the processes that add to them.
        """
        self.ranks = ranks or Ranks()
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

    def update(self, other: "Averages") -> None:
        """Add all that others have collected."""
        for mine, theirs in ((self._sums, other._sums), (self._counts, other._counts)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value
        for name, largest in other._maxima.items():
            self._maxima[name] = torch.maximum(largest, self._maxima.get(name, largest))

    def __bool__(self) -> bool:
        """Say whether anything was added."""
        return bool(self._sums)

    def not_finite(self) -> list[str]:
        """Return the names whose values were not all finite here."""
        return [name for name, total in self._sums.items() if not isfinite(total)]

    def means(self) -> dict[str, float]:
        """Return the mean of each name that has values, and the maximum of those added as such.

        Every process must call it.
        """
        largest = {name: value.item() for name, value in self._maxima.items()}
        parts = self.ranks.gather((self._sums, self._counts, largest))
        sums, counts, maxima = zip(*parts, strict=True)
        totals = {name: sum(part[name] for part in counts) for name in self._sums}
        means = {
            name: sum(part[name] for part in sums) / total
            for name, total in totals.items()
            if total
        }
        of_all = {name: torch.tensor([part[name] for part in maxima]) for name in largest}
        return means | {name: values.max().item() for name, values in of_all.items()}  # NaN stays
