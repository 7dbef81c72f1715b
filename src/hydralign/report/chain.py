"""The report of a chain: its stages side by side, each with a link to its own."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from hydralign.report import page
from hydralign.report.apart import REPORT
from hydralign.report.canvas import SERIES, Picture, picture
from hydralign.report.measures import root_kl, smooth
from hydralign.report.page import Markup, tag
from hydralign.report.policies import WIDE, kl_and_scores, name_frontier_axes
from hydralign.report.read import RunFolder
from hydralign.report.stage import FIGURES, cards, heading, making, missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def chain_page(run: RunFolder, stages: Sequence[RunFolder]) -> tuple[str, list[Picture]]:
    """Return the report of a chain, and its pictures.

    A stage goes by the name of its folder: several may be of one class.

    Args:
        run: the folder of the chain.
        stages: those of its stages that were read.
    """
    pictures = list(_pictures(stages))
    left = [name for name in run.chain if name not in {stage.path.name for stage in stages}]
    parts = [
        page.section(_linked(stage), cards(stage), _told(stage), missing(stage)) for stage in stages
    ]
    content = page.page(
        f"{run.path.name}: {run.stage}",
        heading(run),
        missing(run),
        page.section("Not there", page.listing(f"{name}/ holds no run" for name in left)),
        page.section("Side by side", _stages_table(stages), page.images(pictures)),
        page.section("The same prompts, the same judge", _comparison_table(run)),
        *parts,
        making(run),
    )
    return content, pictures


def _linked(stage: RunFolder) -> Markup:
    return tag("a", stage.path.name, href=f"{stage.path.name}/{REPORT}")


def _told(stage: RunFolder) -> Markup:
    lines = (f"rollout {at}: {message}" for at, message in stage.record.get("alarms", ()))
    return page.listing(lines, css="alarms")


def _stages_table(stages: Sequence[RunFolder]) -> Markup:
    return _table([stage.path.name for stage in stages], [stage.figure for stage in stages])


def _comparison_table(run: RunFolder) -> Markup:
    return _table([row["name"] for row in run.comparison], [row.get for row in run.comparison])


def _table(names: Sequence[str], figures: Sequence[Callable[[str], float | None]]) -> Markup:
    rows = []
    for name, words, form in FIGURES:
        values = [figure(name) for figure in figures]
        if any(value is not None for value in values):
            rows.append((words, *("" if v is None else form.format(v) for v in values)))
    return page.table(rows, ("", *names))


def _pictures(stages: Sequence[RunFolder]) -> Iterator[Picture]:
    """Draw what the policies paid for their scores, as far as both were logged."""
    paths = [(stage, *kl_and_scores(stage)) for stage in stages]
    sampled = [path for path in paths if path[1]]
    if not sampled:
        return

    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        for (stage, kl, scores), color in zip(sampled, cycle(SERIES), strict=False):
            axis.plot(root_kl(smooth(kl)), smooth(scores), color=color, label=stage.path.name)
            nats, held_out = stage.figure("kl_per_sequence"), stage.figure("score_after")
            if nats is not None and held_out is not None:
                axis.plot(root_kl(nats), held_out, "s", color=color)
        name_frontier_axes(axis)
        axis.legend()

    caption = "Lines: training, means over 5 rollouts. Squares: held-out prompts at the end."
    yield picture("score_against_root_kl", caption, 1, draw, size=WIDE)
