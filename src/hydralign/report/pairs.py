"""Pictures and figures of a model that scores: held-out pairs that people ranked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hydralign.outcomes import PairOutcomes
from hydralign.report.canvas import AFTER, BAD, GOOD, QUIET, Picture, picture
from hydralign.report.measures import (
    Margins,
    Share,
    by_gap,
    calibration,
    calibration_error,
    correlation,
    longer_preferred,
    margins,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = (5.2, 3.1)
POINTS = 3000
"""Responses that are drawn as dots."""


def pair_pictures(found: PairOutcomes) -> Iterator[Picture]:
    """Draw calibration, margins, length and rating gap, as far as there is something to draw.

    Args:
        found: what the stage's test saw.
    """
    if not found.preferred:
        return
    pairs = margins(found)
    if found.log_odds is not None:
        yield _calibration(calibration(pairs, found.log_odds))
    yield _margins(pairs, found.unit)
    yield _lengths(found)
    if parts := by_gap(pairs, found.gaps):
        yield _gaps(parts)


def pair_figures(found: PairOutcomes) -> Iterator[tuple[str, str]]:
    """Say in words what the pictures show, as name and value.

    Args:
        found: what the stage's test saw.
    """
    if not found.preferred:
        return
    pairs = margins(found)
    if found.log_odds is not None:
        error = calibration_error(calibration(pairs, found.log_odds))
        yield "mean distance of probability and share right", f"{error:.3f}"
    yield "mean margin of the preferred response", f"{pairs.margin.mean():+.2f} {found.unit}"
    related = correlation(found.lengths, found.scores)
    if related is not None:
        yield "correlation of score and length", f"{related:+.2f}"
    people, model = longer_preferred(found), longer_preferred(found, pairs.margin)
    if people is not None and model is not None:
        yield "the longer response is preferred: by people", f"{people:.3f} of pairs"
        yield "by the model, of the same pairs", f"{model:.3f} of pairs"


def _calibration(bins: Sequence[Share]) -> Picture:
    def draw(axes: Sequence["Axes"]) -> None:
        axis, below = axes
        axis.plot([0.5, 1], [0.5, 1], color=QUIET, linewidth=1, linestyle="--", label="calibrated")
        _intervals(axis, [share.centre for share in bins], bins, "this model, 95 % interval")
        axis.set(title="How sure, and how often right", xlim=(0.49, 1.01))
        axis.set(xlabel="predicted probability", ylabel="share ranked as people did")
        axis.legend(loc="upper left")
        below.bar(
            [share.start for share in bins],
            [share.pairs for share in bins],
            width=[0.96 * (share.end - share.start) for share in bins],
            align="edge",
            color=AFTER,
        )
        below.set(title="How often it is how sure", xlim=(0.49, 1.01))
        below.set(xlabel="predicted probability", ylabel="pairs")

    caption = (
        "Calibration: the probability that people prefer the response that scores higher, as the "
        "model has it, against how often they did."
    )
    return picture("calibration", caption, 2, draw, size=WIDE)


def _margins(pairs: Margins, unit: str) -> Picture:
    low, high = min(pairs.margin.min(), 0), max(pairs.margin.max(), 0)
    width = (high - low) / 40 or 1
    # A bin ends at 0: no bar holds pairs of both kinds.
    edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)

    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        for chosen, color, label in (
            (pairs.margin > 0, GOOD, "ranked as people did"),
            (pairs.margin <= 0, BAD, "the other way round"),
        ):
            axis.hist(pairs.margin[chosen], bins=edges.tolist(), color=color, label=label)
        axis.set(title="Margins", xlabel=f"preferred less other ({unit})", ylabel="pairs")
        axis.legend()

    return picture("margins", "Margins of the held-out pairs.", 1, draw, size=WIDE)


def _lengths(found: PairOutcomes) -> Picture:
    step = -(-len(found.scores) // POINTS)
    lengths, scores = np.asarray(found.lengths), np.asarray(found.scores)
    related = correlation(lengths, scores)

    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        axis.scatter(lengths[::step], scores[::step], s=5, alpha=0.25, color=AFTER, linewidths=0)
        if related is not None:
            ends = np.array([lengths.min(), lengths.max()])
            line = np.polyval(np.polyfit(lengths, scores, 1), ends)
            axis.plot(ends, line, color=BAD, label=f"correlation {related:+.2f}")
            axis.legend()
        axis.set(title="Score against length", xlabel="tokens of the response", ylabel="score")

    caption = f"Length: scores of the compared responses ({found.unit})."
    return picture("length", caption, 1, draw, size=WIDE)


def _gaps(parts: Sequence[Share]) -> Picture:
    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        _intervals(axis, range(len(parts)), parts, "95 % interval")
        names = [f"{span(part)}\n{part.pairs} pairs" for part in parts]
        axis.set_xticks(range(len(parts)), names, fontsize=7)
        axis.axhline(0.5, color=QUIET, linewidth=1, linestyle="--", label="guessing")
        axis.set(title="Accuracy by rating gap", ylabel="share ranked as people did")
        axis.set(xlabel="how far apart people rated the two", xlim=(-0.5, len(parts) - 0.5))
        axis.legend(loc="upper left")

    caption = "Rating gap: pairs that people found far apart are easier."
    return picture("rating_gap", caption, 1, draw, size=WIDE)


def span(part: Share) -> str:
    """Say which values a part holds: one, or from the smallest to the largest."""
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (part.least, part.most)))


def _intervals(axis: "Axes", places: Sequence[float], parts: Sequence[Share], label: str) -> None:
    means = [part.right.mean for part in parts]
    below = [part.right.mean - part.right.low for part in parts]
    above = [part.right.high - part.right.mean for part in parts]
    axis.errorbar(places, means, [below, above], fmt="o-", capsize=2, color=AFTER, label=label)
