"""What a stage took: memory, planned and measured, and time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydralign.report.canvas import AFTER, BAD, SERIES, Picture, picture
from hydralign.report.read import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GB = 1e9
PHASES = {"build": "load and build", "train": "train", "test": "test"}
"""Phases of a stage that are timed, and what they are called."""
OF_A_ROLLOUT = {"generate": "sample", "score": "score", "train": "update"}
"""Phases of a rollout, likewise."""


def seconds_by_phase(run: RunFolder) -> dict[str, float]:
    """Return what each phase took; where rollouts are timed, training in its parts.

    Args:
        run: as it was read.
    """
    phases: Mapping[str, float] = run.record.get("seconds", {})
    sums = {
        f"train: {label}": sum(run.curves[f"perf/{name}_seconds"].values)
        for name, label in OF_A_ROLLOUT.items()
        if f"perf/{name}_seconds" in run.curves
    }
    if not sums:
        return {label: phases[name] for name, label in PHASES.items() if name in phases}
    if not phases:
        return sums
    rest = max(phases["train"] - sum(sums.values()), 0)
    return {
        PHASES["build"]: phases["build"],
        **sums,
        "train: the rest": rest,  # tables of samples, checkpoints
        PHASES["test"]: phases["test"],
    }


def resource_pictures(run: RunFolder) -> Iterator[Picture]:
    """Draw the memory plan beside what was measured, and the time of each phase.

    Args:
        run: as it was read.
    """
    if run.plan.get("phases"):
        yield _memory(run)
    if seconds := seconds_by_phase(run):
        yield _time(seconds)


def _memory(run: RunFolder) -> Picture:
    phases: Mapping[str, Mapping[str, int]] = run.plan["phases"]
    kinds = dict.fromkeys(kind for phase in phases.values() for kind in phase)
    measured = run.figure("peak_memory_gb")

    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        start = dict.fromkeys(phases, 0.0)
        for kind, color in zip(kinds, SERIES * len(kinds), strict=False):
            sizes = [phase.get(kind, 0) / GB for phase in phases.values()]
            axis.barh(list(phases), sizes, left=list(start.values()), color=color, label=kind)
            start = {name: start[name] + size for name, size in zip(phases, sizes, strict=True)}
        if measured is not None:
            line = f"measured, {measured:.2f} GB"
            axis.axvline(measured, color="#111827", linestyle="--", linewidth=1.2, label=line)
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set(title="Memory, as planned", xlabel="GB (10^9 bytes)")
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))

    caption = "The plan, phase by phase, and the peak that was measured."
    size = (9.2, 1.1 + 0.28 * len(phases) + 0.12 * len(kinds))
    return picture("memory", caption, 1, draw, size=size, long_names=True)


def _time(seconds: Mapping[str, float]) -> Picture:
    def draw(axes: Sequence["Axes"]) -> None:
        (axis,) = axes
        bars = axis.barh(list(seconds), list(seconds.values()), color=AFTER)
        axis.bar_label(bars, fmt="%.1f s", padding=3, fontsize=8, color=BAD)
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.margins(x=0.12)
        axis.set(title="Time", xlabel="seconds")

    size = (9.2, 1 + 0.28 * len(seconds))
    return picture("time", "Where the time went.", 1, draw, size=size, long_names=True)
