"""The report of a chain: its stages side by side, each with a link to its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from hydralign.report import page
from hydralign.report.canvas import SERIES, Picture, picture
from hydralign.report.measures import root_kl, smooth
from hydralign.report.page import Markup, tag
from hydralign.report.read import RunFolder
from hydralign.report.stage import cards, heading, making, missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPARED = (
    ("win_rate", "win rate against the SFT policy", "{:.3f}"),
    ("score_after", "held-out score", "{:+.2f}"),
    ("gold_after", "gold score, never trained on", "{:+.3f}"),
    ("kl_per_sequence", "KL, nats per response", "{:.2f}"),
    ("pair_accuracy", "held-out pairs ranked as people did", "{:.3f}"),
    ("eos_rate", "stop by themselves", "{:.3f}"),
    ("response_length", "tokens per response", "{:.1f}"),
    ("distinct_responses", "distinct responses", "{:.3f}"),
    ("seconds", "seconds", "{:.0f}"),
    ("planned_memory_gb", "GB, planned", "{:.2f}"),
    ("peak_memory_gb", "GB, measured", "{:.2f}"),
)
"""Final figures of stages that are set side by side: words and form of each."""


def chain_page(
    run: RunFolder, stages: Sequence[RunFolder], links: Mapping[str, str]
) -> tuple[str, list[Picture]]:
    """Return the report of a chain, and its pictures.

    Args:
        run: the folder of the chain.
        stages: those of its stages that were read.
        links: address of each stage's own report, by stage.
    """
    pictures = list(_pictures(stages))
    left = [name for name in run.chain if name not in {stage.stage for stage in stages}]
    parts = [
        page.section(_linked(stage, links), cards(stage), _told(stage), missing(stage))
        for stage in stages
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


def _linked(stage: RunFolder, links: Mapping[str, str]) -> Markup:
    return tag("a", stage.stage, href=links[stage.stage])


def _told(stage: RunFolder) -> Markup:
    lines = (f"rollout {at}: {message}" for at, message in stage.record.get("alarms", ()))
    return page.listing(lines, css="alarms")


def _stages_table(stages: Sequence[RunFolder]) -> Markup:
    return _table([stage.stage for stage in stages], [stage.figure for stage in stages])


def _comparison_table(run: RunFolder) -> Markup:
    return _table([row["name"] for row in run.comparison], [row.get for row in run.comparison])


def _table(names: Sequence[str], figures: Sequence[Callable[[str], float | None]]) -> Markup:
    rows = []
    for name, words, form in COMPARED:
        values = [figure(name) for figure in figures]
        if any(value is not None for value in values):
            rows.append((words, *("" if v is None else form.format(v) for v in values)))
    return page.table(rows, ("", *names))


def _pictures(stages: Sequence[RunFolder]) -> Iterator[Picture]:
    sampled = [stage for stage in stages if "kl/per_sequence" in stage.curves]
    if sampled:
        yield _frontier(sampled)


def _frontier(stages: Sequence[RunFolder]) -> Picture:
    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        for stage, color in zip(stages, cycle(SERIES), strict=False):
            kl, scores = (
                smooth(stage.curves[name].values) for name in ("kl/per_sequence", "reward/score")
            )
            axis.plot(root_kl(kl), scores, color=color, label=stage.stage)
            nats, held_out = stage.figure("kl_per_sequence"), stage.figure("score_after")
            if nats is not None and held_out is not None:
                axis.plot(root_kl(nats), held_out, "s", color=color)
        axis.set(title="Score against root KL", ylabel="mean score")
        axis.set_xlabel("root of the KL to the SFT policy (root of nats per response)")
        axis.legend()

    caption = "Lines: training, means over 5 rollouts. Squares: held-out prompts at the end."
    return picture("score_against_root_kl", caption, 1, draw, size=(5.2, 3.1))
