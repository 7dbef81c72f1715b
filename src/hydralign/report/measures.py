"""The figures behind the pictures: plain functions of lists of numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hydralign.outcomes import PairOutcomes


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


class Share(NamedTuple):
    """The share of pairs ranked as people did among those that are alike in something."""

    start: float
    """Where the part begins, by what these pairs are alike in."""
    end: float
    least: float
    """Of what they are alike in: the smallest, the mean and the largest that occurs."""
    centre: float
    most: float
    right: Interval
    pairs: int


def bootstrap(values: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0) -> Interval:
    """Return the mean with a 95 % percentile interval of 1000 resamples.

    As `stages/bootstrap.py`, whose figures a run reports, but without torch: a report is drawn in
    a process of its own, which is to start soon.

    Args:
        values: (n,) at least one.
        groups: (n,) what each belongs to; whole groups are drawn. None: each by itself.
        seed: of the draws.
    """
    given = np.asarray(values, dtype=float)
    places = np.arange(len(given)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(places, weights=given), np.bincount(places)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(1000, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return Interval(float(given.mean()), float(low), float(high))


class Margins(NamedTuple):
    """What a model makes of the pairs that people ranked."""

    margin: np.ndarray
    """(pairs,) score of the preferred less that of the other."""
    right: np.ndarray
    """(pairs,) 1 where that is above 0, one half where it is 0, else 0."""
    prompts: np.ndarray
    """(pairs,)"""


def margins(found: PairOutcomes) -> Margins:
    """Return the margins of all pairs."""
    scores = np.asarray(found.scores, dtype=float)
    margin = scores[np.asarray(found.preferred)] - scores[np.asarray(found.other)]
    return Margins(margin, (np.sign(margin) + 1) / 2, np.asarray(found.prompts))


def calibration(pairs: Margins, log_odds: float, bins: int = 10) -> list[Share]:
    """Compare how sure a model is with how often it is right.

    It is asked for the probability that people prefer the response that scores higher, which is
    one half at least.

    Args:
        pairs: what it makes of them.
        log_odds: for each unit of the margin.
        bins: of equal width from 0.5 to 1; empty ones are left out.
    """
    sure = 1 / (1 + np.exp(-log_odds * np.abs(pairs.margin)))
    return shares(pairs, sure, np.linspace(0.5, 1, bins + 1))


def calibration_error(bins: Sequence[Share]) -> float:
    """Return the mean distance of probability and share right, over pairs.

    Guo et al. 2017 (arXiv 1706.04599).
    """
    total = sum(share.pairs for share in bins)
    return sum(abs(share.centre - share.right.mean) * share.pairs for share in bins) / total


def by_gap(pairs: Margins, gaps: Sequence[float | None], most: int = 6) -> list[Share]:
    """Return the accuracy by how far apart people rated the two.

    Each gap is a part of its own where there are few; else parts are of about equal size.

    Args:
        pairs: what a model makes of them.
        gaps: (pairs,) None where people rated nothing; those pairs are left out.
        most: parts.
    """
    known = np.array([gap is not None for gap in gaps], dtype=bool)
    if not known.any():
        return []
    # Differences of ratings like 4.1 and 3.8 that are the same differ in their last bits.
    gap = np.array([gap for gap in gaps if gap is not None]).round(9)
    starts = np.unique(gap)
    if len(starts) > most:
        starts = np.unique(np.quantile(gap, np.linspace(0, 1, most + 1)[:-1]))
    return shares(Margins(*(column[known] for column in pairs)), gap, np.append(starts, np.inf))


def shares(pairs: Margins, by: np.ndarray, edges: np.ndarray) -> list[Share]:
    """Cut pairs into parts and return the share that is right in each.

    Args:
        pairs: what a model makes of them.
        by: (pairs,) what decides on the part.
        edges: of the parts; one that lies on an edge belongs above it, on the last one below.
    """
    places = np.clip(np.searchsorted(edges, by, side="right") - 1, 0, len(edges) - 2)
    found = []
    for place in np.unique(places):
        chosen = places == place
        right = bootstrap(pairs.right[chosen], pairs.prompts[chosen])
        start, end = float(edges[place]), float(edges[place + 1])
        alike = by[chosen]
        inside = float(alike.min()), float(alike.mean()), float(alike.max())
        found.append(Share(start, end, *inside, right, int(chosen.sum())))
    return found


def correlation(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return Pearson's coefficient; None where one of the two does not vary."""
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def longer_preferred(found: PairOutcomes, margin: ArrayLike | None = None) -> float | None:
    """Return how often the longer response of a pair is preferred; None if all are as long.

    Args:
        found: pairs that people ranked.
        margin: (pairs,) of a model, to ask what it prefers; None asks people.
    """
    lengths = np.asarray(found.lengths)
    longer = np.sign(lengths[np.asarray(found.preferred)] - lengths[np.asarray(found.other)])
    liked = 1.0 if margin is None else np.sign(margin)
    differ = longer != 0
    return float(((longer * liked + 1) / 2)[differ].mean()) if differ.any() else None


def root_kl(kl: ArrayLike) -> np.ndarray:
    """Return the root of KLs, as distances; an estimate below 0 counts as 0."""
    return np.sqrt(np.clip(np.asarray(kl, dtype=float), 0, None))


def smooth(values: Sequence[float], window: int = 5) -> list[float]:
    """Return means over some neighbours up to each value."""
    pieces = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [sum(piece) / len(piece) for piece in pieces]
