"""How far the work is, and how well annotators agree."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any

from hydralign.errors import UserError

Ranks = Sequence[int]


@dataclass(frozen=True)
class Work:
    """What one annotator has done, undone rankings left out."""

    annotator: str
    rankings: int
    skips: int
    median_seconds: float | None
    """Of a ranking, from first sight to saving."""


@dataclass(frozen=True)
class Progress:
    """Counts over a file of rankings."""

    items: int
    wanted: int
    """Rankings, when all is done."""
    rankings: int
    """That stand, skips left out."""
    ranked_items: int
    compared_items: int
    """Ranked by more than one annotator: what the agreement is measured on."""
    agreement: float | None
    """Krippendorff's alpha; None where nothing can be compared."""
    annotators: list[Work]


def progress(opened: AbstractContextManager[sqlite3.Connection]) -> Progress:
    """Count, and measure the agreement.

    Args:
        opened: the database, to be read; the agreement is measured when it is closed.

    Raises:
        UserError: if the file cannot be read, or as `agreement` does.
    """
    with opened as database:
        items, wanted = database.execute("SELECT count(*), total(wanted) FROM items").fetchone()
        ranks = _ranks(database)
        annotators = _work(database)
    compared = {item: by for item, by in ranks.items() if len(by) > 1}
    return Progress(
        items=items,
        wanted=int(wanted),
        rankings=sum(len(by) for by in ranks.values()),
        ranked_items=len(ranks),
        compared_items=len(compared),
        agreement=agreement(list(compared.values())),
        annotators=annotators,
    )


def agreement(rankings: Sequence[Mapping[str, Ranks]]) -> float | None:
    """Return Krippendorff's alpha, ordinal, over the responses of items that several have ranked.

    A response's value is its place between the best (0) and the worst (1) of its item, those that
    tie share the mean of their places; so items of different k have one scale. 1 is full
    agreement, 0 is what chance gives, and below 0 annotators contradict each other.

    Args:
        rankings: of each item, its ranks by annotator.

    Returns:
        alpha; None where no two annotators have ranked the same item, or all places are equal.

    Raises:
        UserError: if something can be compared, and the extra `label` is not installed.
    """
    several = [by for by in rankings if len(by) > 1]
    names = sorted({name for by in several for name in by})
    columns: list[list[float]] = []  # one each response: its place by every annotator
    for by in several:
        known = {name: places(ranks) for name, ranks in by.items()}
        k = len(next(iter(known.values())))
        blank = [float("nan")] * k
        columns += zip(*(known.get(name, blank) for name in names), strict=True)  # type: ignore[arg-type]
    if not columns:
        return None
    import numpy as np  # only now: the page starts without it

    try:
        import krippendorff
    except ImportError as error:
        raise UserError("The agreement needs krippendorff: pip install -e '.[label]'") from error
    values = np.array(columns).T
    if len(np.unique(values[~np.isnan(values)])) < 2:
        return None
    return float(krippendorff.alpha(values, level_of_measurement="ordinal"))


def places(ranks: Ranks) -> list[float]:
    """Return where each response stands, from 0 (best) to 1 (worst of k); ties share the mean."""
    below = [sum(other < rank for other in ranks) for rank in ranks]
    beside = [sum(other == rank for other in ranks) - 1 for rank in ranks]
    most = max(len(ranks) - 1, 1)
    return [(b + s / 2) / most for b, s in zip(below, beside, strict=True)]


def _ranks(database: sqlite3.Connection) -> dict[int, dict[str, list[int]]]:
    """Return the ranks that stand, by item and annotator."""
    found: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for item, annotator, ranks in database.execute(
        "SELECT item, annotator, ranks FROM rankings WHERE undone_at IS NULL AND ranks IS NOT NULL"
    ):
        found[item][annotator] = json.loads(ranks)
    return found


def _work(database: sqlite3.Connection) -> list[Work]:
    rows: dict[str, list[tuple[Any, float | None]]] = defaultdict(list)
    for annotator, ranks, seconds in database.execute(
        "SELECT annotator, ranks, seconds FROM rankings WHERE undone_at IS NULL ORDER BY annotator"
    ):
        rows[annotator].append((ranks, seconds))
    return [_summed(annotator, done) for annotator, done in rows.items()]


def _summed(annotator: str, done: Sequence[tuple[Any, float | None]]) -> Work:
    ranked = [seconds for ranks, seconds in done if ranks is not None]
    times = [seconds for seconds in ranked if seconds is not None]
    return Work(annotator, len(ranked), len(done) - len(ranked), median(times) if times else None)
