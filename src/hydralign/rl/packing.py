"""Rows one behind the other, without the padding between them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUP_COST = {"cpu": 5000, "cuda": 10**6}
"""Pairs of tokens that take as long to attend to as one more group of rows. On a CPU measured; on a
GPU a guess: some ten kernels more for each layer, against what it multiplies in that time."""


class RowGroup(NamedTuple):
    """m rows of alike length; w is that of the longest."""

    shape: tuple[int, int]
    """(m, w)"""
    places: Tensor
    """(k,) where each token stands among the m w places of the rows, in the order of the rows."""

    def spread(self, packed: Tensor) -> Tensor:
        """Lay something of each token (k, ...) out as rows (m, w, ...), with 0 behind them."""
        m, w = self.shape
        flat = packed.new_zeros(m * w, *packed.shape[1:])
        return flat.index_copy_(0, self.places, packed).view(m, w, *packed.shape[1:])

    def pack(self, rows: Tensor) -> Tensor:
        """Take (k, ...) what stands at the tokens of the rows (m, w, ...)."""
        return rows.flatten(0, 1).index_select(0, self.places)


class PackedRows(NamedTuple):
    """Where the n tokens of b rows stand that are packed: shorter rows first.

    Where a network treats each token by itself, it sees no padding. Where the tokens of a row meet,
    they are spread into rows again, group by group.
    """

    tokens: Tensor
    """(n,) where each stands in the padded rows (b, t), flattened."""
    position_ids: Tensor
    """(n,) from 0 on in each row."""
    groups: tuple[RowGroup, ...]

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return self.groups[-1].shape[1]

    def spread(self, packed: Tensor) -> list[Tensor]:
        """Lay something of each token (n, ...) out as rows: (m, w, ...) of each group."""
        pieces = torch.split(packed, [len(group.places) for group in self.groups])
        return [group.spread(piece) for group, piece in zip(self.groups, pieces, strict=True)]

    def pack(self, rows: Iterable[Tensor]) -> Tensor:
        """Put what stands in the rows (m, w, ...) of each group one behind the other: (n, ...)."""
        return torch.cat([group.pack(some) for group, some in zip(self.groups, rows, strict=True)])


def pack_rows(attention_mask: Tensor) -> PackedRows:
    """Say where tokens stand once their rows are packed.

    Args:
        attention_mask: (b, t) bool, True = real token. There is at least one row, and one token
            in each.
    """
    t, device = attention_mask.shape[1], attention_mask.device
    cost = GROUP_COST.get(device.type, GROUP_COST["cuda"])
    mask = attention_mask.cpu()  # what depends on it is many small steps
    lengths, order = mask.sum(dim=-1).sort(stable=True)
    row, column = mask[order].nonzero(as_tuple=True)
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    groups = [_group(lengths[start:end]) for start, end in _cuts(lengths.tolist(), cost)]
    tokens = order[row] * t + column
    moved = [RowGroup(shape, places.to(device)) for shape, places in groups]
    return PackedRows(tokens.to(device), positions.to(device), tuple(moved))


def _group(lengths: Tensor) -> RowGroup:
    w = int(lengths[-1])
    is_token = torch.arange(w) < lengths.unsqueeze(-1)
    return RowGroup((len(lengths), w), is_token.flatten().nonzero().squeeze(-1))


def _cuts(lengths: Sequence[int], group_cost: int) -> list[tuple[int, int]]:
    """Cut rows of rising length into the stretches that are cheapest in all.

    A stretch costs its rows times the square of the length of its last one, and `group_cost`.
    Dynamic programming.
    """
    best, start_of = [0], [0]  # of the first n rows: the cost, and where the last stretch starts
    for end in range(1, len(lengths) + 1):
        costs = [best[start] + (end - start) * lengths[end - 1] ** 2 for start in range(end)]
        cheapest = min(costs)
        best.append(cheapest + group_cost)
        start_of.append(costs.index(cheapest))
    cuts, end = [], len(lengths)
    while end:
        cuts.append((start_of[end], end))
        end = start_of[end]
    return cuts[::-1]
