"""Pictures and figures of a policy beside the reference that it started from."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hydralign.outcomes import PolicyOutcomes
from hydralign.report.canvas import AFTER, BAD, BEFORE, Picture, picture
from hydralign.report.measures import bootstrap, root_kl, smooth
from hydralign.report.read import Curve, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40
WIDE = (5.2, 3.1)


def policy_pictures(run: RunFolder) -> Iterator[Picture]:
    """Draw how far a policy went and what it gained, as far as there is something to draw.

    Args:
        run: as it was read.
    """
    found = run.outcomes if isinstance(run.outcomes, PolicyOutcomes) else None
    kl, scores = kl_and_scores(run)
    if kl:
        yield _frontier(kl, scores, found)
    if found is not None and found.kl:
        yield _held_out(found)


def policy_figures(found: PolicyOutcomes) -> Iterator[tuple[str, ...]]:
    """Return means with their intervals, as name, before and after.

    Args:
        found: what the stage's test saw.
    """
    rows = [("held-out score", found.before.scores, found.after.scores)]
    if found.before.gold is not None and found.after.gold is not None:
        rows.append(("gold score, never trained on", found.before.gold, found.after.gold))
    rows.append(("tokens per response", found.before.lengths, found.after.lengths))
    rows.append(("stop by themselves", found.before.finished, found.after.finished))
    for name, *columns in rows:
        before, after = (bootstrap(column) for column in columns)
        yield name, *(f"{x.mean:.3f} ({x.low:.3f} to {x.high:.3f})" for x in (before, after))
    kl = bootstrap(found.kl)
    yield "KL, nats per response", "0", f"{kl.mean:.2f} ({kl.low:.2f} to {kl.high:.2f})"


def kl_and_scores(run: RunFolder) -> tuple[list[float], list[float]]:
    """Return the KL in nats per response and the mean score of rollouts that logged both.

    Args:
        run: as it was read.
    """
    nothing = Curve([], [])
    kl, scores = (
        dict(zip(*run.curves.get(name, nothing), strict=True))
        for name in ("kl/per_sequence", "reward/score")
    )
    both = [step for step in kl if step in scores]
    return [kl[step] for step in both], [scores[step] for step in both]


def name_frontier_axes(axis: "Axes") -> None:
    """Say what scores against root KL are."""
    axis.set(title="Score against root KL", ylabel="mean score")
    axis.set_xlabel("root of the KL to the SFT policy (root of nats per response)")


def _frontier(
    kl: Sequence[float], scores: Sequence[float], found: PolicyOutcomes | None
) -> Picture:
    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        places = root_kl(kl)
        axis.scatter(places, scores, s=8, color=AFTER, alpha=0.35, linewidths=0, label="rollouts")
        axis.plot(root_kl(smooth(kl)), smooth(scores), color=AFTER)
        if found is not None and found.kl:
            for judged, nats, color, label in (
                (found.before, 0.0, BEFORE, "before, held out"),
                (found.after, float(np.mean(found.kl)), BAD, "after, held out"),
            ):
                mean = bootstrap(judged.scores)
                spread = [[mean.mean - mean.low], [mean.high - mean.mean]]
                axis.errorbar(
                    root_kl(nats), mean.mean, spread, fmt="s", color=color, capsize=3, label=label
                )
        name_frontier_axes(axis)
        axis.legend(loc="lower right")

    caption = (
        "What the score costs: the further right, the further from the SFT policy. The line is a "
        "mean over 5 rollouts; squares have 95 % intervals."
    )
    return picture("score_against_root_kl", caption, 1, draw, size=WIDE)


def _held_out(found: PolicyOutcomes) -> Picture:
    both = found.before, found.after
    panels: list[tuple[str, str, list[Sequence[float]]]] = [
        ("Score", "score", [judged.scores for judged in both]),
        ("Length", "tokens per response", [judged.lengths for judged in both]),
    ]
    gold = [judged.gold for judged in both if judged.gold is not None]
    if len(gold) == 2:
        panels.insert(1, ("Gold score, never trained on", "gold score", gold))

    def draw(axes: Sequence["Axes"]) -> None:
        for axis, (title, unit, columns) in zip(axes, panels, strict=False):
            _two_histograms(axis, columns)
            axis.set(title=title, xlabel=unit, ylabel="responses")
        axes[0].legend()
        axes[-1].hist(found.kl, bins=BINS, color=AFTER)
        axes[-1].set(title="KL", xlabel="nats per response", ylabel="responses")

    caption = "The same held-out prompts, answered before and after."
    return picture("held_out", caption, len(panels) + 1, draw, columns=2, size=WIDE)


def _two_histograms(axis: "Axes", columns: Sequence[Sequence[float]]) -> None:
    together = np.concatenate([np.asarray(column, dtype=float) for column in columns])
    whole = (together == together.round()).all() and np.ptp(together) < 200
    if whole:  # counts: a bin for each, so that none is empty by rounding
        edges = np.arange(together.min() - 0.5, together.max() + 1)
    else:
        edges = np.histogram_bin_edges(together, bins=BINS)
    for column, color, label in zip(columns, (BEFORE, AFTER), ("before", "after"), strict=True):
        axis.hist(column, bins=edges.tolist(), color=color, alpha=0.6, label=label)
