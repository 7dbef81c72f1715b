"""Which pairs of a ranking to learn from."""

from dataclasses import replace
from itertools import combinations

from hydralign.data.examples import Pair
from hydralign.data.records import Comparison

_ROUNDING = 1e-9  # two printed means that differ by the gap must not fail it by a rounding error


def in_pairs(comparison: Comparison) -> list[Comparison]:
    """Cut a ranking into comparisons of two, which a batch then holds apart; ties are left out.

    Args:
        comparison: k ranked responses.
    """
    ranks, ratings = comparison.ranks, comparison.ratings
    return [
        replace(
            comparison,
            responses=(comparison.responses[i], comparison.responses[j]),
            ranks=(ranks[i], ranks[j]),
            ratings=None if ratings is None else (ratings[i], ratings[j]),
        )
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] != ranks[j]
    ]


def preference_pairs(comparison: Comparison, rating_gap: float = 0.0) -> list[Pair]:
    """Return all pairs of responses, the better one first.

    Args:
        comparison: k ranked responses: k (k - 1) / 2 pairs.
        rating_gap: pairs whose ratings differ by less are left out; without ratings none is.
    """
    ranks, ratings = comparison.ranks, comparison.ratings
    pairs = []
    for i, j in combinations(range(len(ranks)), 2):
        gap = None if ratings is None else abs(ratings[i] - ratings[j])
        if gap is not None and gap < rating_gap - _ROUNDING:
            continue
        better, worse = (i, j) if ranks[i] <= ranks[j] else (j, i)
        pairs.append(Pair(better, worse, 0.5 if ranks[i] == ranks[j] else 1.0, gap))
    return pairs
