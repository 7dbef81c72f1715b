"""Hold the learning figures of a finished demo against their bars.

python scripts/check_bars.py outputs/demo

Reads metrics.json in that folder. A figure may miss its bar by its margin, which is there for the
noise between machines and seeds, and no more. Exit status 1 when one misses it, or is not there.
A model that is only to come near the demo, such as one on a 4-bit base, gets --slack 0.05: by that
much each figure may miss its bar, instead of by its margin.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Bar:
    """One figure and what it has to reach."""

    figure: str
    """A name in metrics.json, or the difference of two: "a - b"."""

    limit: float
    margin: float
    """By how much the figure may miss the limit."""

    at_least: bool = True
    """True: the figure must not lie below the limit. False: not above it."""


BARS = (
    Bar("sft/unigram_nll - sft/val_nll", 1.4, 0.05),
    Bar("reward/pair_accuracy", 0.82, 0.01),
    Bar("reward/pairs", 2000, 0.0),
    Bar("ppo/win_rate", 0.85, 0.03),
    Bar("ppo/gold_after - ppo/gold_before", 0.35, 0.05),
    Bar("ppo/kl_per_sequence", 15.0, 1.0, at_least=False),
    Bar("ppo/eos_rate", 0.9, 0.02),
    Bar("ppo/distinct_responses", 0.9, 0.02),
)


def measure(figure: str, metrics: Mapping[str, object]) -> float:
    """Return a figure's value: one metric, or the first minus the second in "a - b".

    Raises:
        KeyError: a name is not in the metrics, or has no number. Its argument is that name.
    """
    values = []
    for name in figure.split(" - "):
        value = metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise KeyError(name)
        values.append(float(value))
    return values[0] - sum(values[1:])


def judge(bar: Bar, value: float) -> str:
    """Return "ok", "ok, within the margin" or "MISSED". A value that is not finite is a miss."""
    if not math.isfinite(value):
        return "MISSED"
    shortfall = bar.limit - value if bar.at_least else value - bar.limit
    if shortfall <= 0:
        return "ok"
    # 1e-9: 1.4 - 0.05 is not exactly 1.35 in binary.
    return "ok, within the margin" if shortfall <= bar.margin + 1e-9 else "MISSED"


def check(
    metrics: Mapping[str, object], slack: float | None = None
) -> tuple[list[tuple[str, ...]], bool]:
    """Judge every bar.

    Args:
        metrics: the figures by name.
        slack: takes the place of every margin; None keeps them.

    Returns:
        The rows of the table (figure, measured, bar, margin, verdict), and whether all passed.
    """
    rows: list[tuple[str, ...]] = []
    passed = True
    bars = BARS if slack is None else [replace(bar, margin=slack) for bar in BARS]
    for bar in bars:
        try:
            value = measure(bar.figure, metrics)
            measured, verdict = f"{value:.3f}", judge(bar, value)
        except KeyError as missing:
            measured, verdict = "-", f"MISSED: no number {missing.args[0]!r}"
        passed = passed and not verdict.startswith("MISSED")
        limit = f"{'>=' if bar.at_least else '<='} {bar.limit:g}"
        rows.append((bar.figure, measured, limit, f"{bar.margin:g}", verdict))
    return rows, passed


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Align the rows in columns under a heading."""
    table = [("figure", "measured", "bar", "margin", "verdict"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def read_metrics(folder: Path) -> dict[str, object]:
    """Read metrics.json of a finished run.

    Raises:
        SystemExit: with what is wrong, where, and what to do.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"{path} cannot be read ({error.strerror}). Finish a run first: make demo")
    except ValueError as error:
        sys.exit(f"{path} is not JSON ({error}). Run the demo again: make demo")
    if not isinstance(metrics, dict):
        sys.exit(f'{path} must hold {{"group/name": value}}. Run the demo again: make demo')
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of a finished run")
    parser.add_argument("--slack", type=float, help="by how much any figure may miss its bar")
    options = parser.parse_args(arguments)
    rows, passed = check(read_metrics(options.folder), options.slack)
    print(format_table(rows))
    print("Every bar is cleared." if passed else "A bar is missed by more than its margin.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
