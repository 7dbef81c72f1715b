"""Compare methods: SFT, best of n, DPO, PPO, GRPO and RLOO on the same held-out prompts.

python scripts/compare.py model=tiny data=movie_reviews [--out outputs/compare]   run them all first
python scripts/compare.py RUN_DIR [RUN_DIR ...] [--out DIR]                       finished runs

The first form takes what train.py takes and can be called again after a stop. Runs must have
started from the same policy. Writes comparison.md, .png and .json, and shows them in TensorBoard.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hydralign.artifacts import write_json  # noqa: E402
from hydralign.explain import run_script  # noqa: E402
from hydralign.record import RECORD  # noqa: E402
from hydralign.report.apart import draw_apart  # noqa: E402
from hydralign.report.measures import root_kl, smooth  # noqa: E402

COLUMNS = (
    ("score in training", "train_score", "{:+.2f}"),
    ("held-out score", "score_after", "{:+.2f}"),
    ("gold", "gold_after", "{:+.3f}"),
    ("win rate", "win_rate", "{:.3f}"),
    ("from", "win_rate_low", "{:.3f}"),
    ("to", "win_rate_high", "{:.3f}"),
    ("KL", "kl_per_sequence", "{:.2f}"),
    ("tokens", "response_length", "{:.1f}"),
    ("stopped", "eos_rate", "{:.3f}"),
    ("distinct", "distinct_responses", "{:.3f}"),
    ("seconds", "seconds", "{:.0f}"),
    ("peak GB", "peak_memory_gb", "{:.2f}"),
)
"""Heading, figure and form of each column."""

LAST = 10
"""Rollouts at the end whose mean score is the one in training."""


def train(overrides: Sequence[str], out: Path) -> None:
    """Run every method, or what is not finished of it.

    Args:
        overrides: of the config.
        out: the folder of the chain.
    """
    chosen = [] if any(x.startswith("stage=") for x in overrides) else ["stage=compare"]
    command = [sys.executable, str(ROOT / "train.py"), *chosen, *overrides, f"hydra.run.dir={out}"]
    if code := subprocess.run(command).returncode:
        sys.exit(code)


def compare(folders: Sequence[Path], out: Path) -> None:
    """Compare finished runs, and write what comes out.

    Args:
        folders: of the runs, or of chains of them.
        out: gets the comparison.
    """
    from hydralign import contest  # only now: it imports torch
    from hydralign.run import quieten_libraries

    quieten_libraries()
    taking_part = contest.find_field(folders)
    curves = {run.name: curve_of(run.folder) for run in taking_part.runs}
    rows: list[dict[str, Any]] = [
        {"name": result.name, **result.figures} for result in contest.hold(taking_part)
    ]
    for row in rows:
        if scores := curves.get(row["name"], ([], []))[1]:
            row["train_score"] = sum(scores[-LAST:]) / len(scores[-LAST:])
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.md").write_text(markdown(rows))
    write_json(out / "comparison.json", {"rows": rows})
    draw(rows, curves, out / "comparison.png")
    show(out)
    if (out / RECORD).is_file():  # of a chain: its report shows the comparison, too
        draw_apart(out)
    print(f"\n{markdown(rows)}\nWritten to {out}: comparison.md, comparison.png, comparison.json.")


def curve_of(folder: Path) -> tuple[list[float], list[float]]:
    """Return the KLs and scores of a run's rollouts; empty for a run without any."""
    from scripts.plot_run import read_scalars

    kl, scores = (read_scalars(folder, name)[1] for name in ("kl/per_sequence", "reward/score"))
    return (kl, scores) if len(kl) == len(scores) else ([], [])


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table; columns that nobody has a figure for are left out."""
    columns = [column for column in COLUMNS if any(column[1] in row for row in rows)]
    lines = ["| | " + " | ".join(heading for heading, *_ in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for row in rows:
        cells = [form.format(row[key]) if key in row else "-" for _, key, form in columns]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[dict[str, Any]], curves: dict[str, Any], picture: Path) -> None:
    """Draw held-out score, and gold where there is one, against the root of the KL.

    Args:
        rows: of the table.
        curves: KLs and scores in training, by name.
        picture: to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [("score_after", "held-out score")]
    if any("gold_after" in row for row in rows):
        panels.append(("gold_after", "gold score (never trained on)"))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(6.5 * len(panels), 5), layout="constrained", squeeze=False
    )
    for axis, (key, title) in zip(axes.flat, panels, strict=True):
        chosen = [row for row in rows if row["name"] == "sft" or row["name"].startswith("best of")]
        points = [(root_kl(row["kl_per_sequence"]), row[key]) for row in chosen]
        axis.plot(*zip(*points, strict=True), "o-", color="#555753", label="best of n")
        for row, color in zip([r for r in rows if r not in chosen], cycle(COLORS)):
            if key == "score_after":
                kl, scores = (smooth(x) for x in curves.get(row["name"], ([], [])))
                axis.plot(root_kl(kl), scores, color=color, linewidth=1, alpha=0.6)
            axis.plot(
                root_kl(row["kl_per_sequence"]),
                row[key],
                "s",
                color=color,
                markersize=8,
                label=row["name"],
            )
        axis.set_xlabel("root of the KL to the SFT policy (root of nats per response)")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        axis.legend()
    axes.flat[0].set_title("squares and circles: held-out; lines: in training", fontsize=10)
    figure.savefig(picture, dpi=110)


COLORS = ("#3465a4", "#cc0000", "#4e9a06", "#c17d11", "#75507b")


def show(out: Path) -> None:
    """Put table and picture into TensorBoard."""
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "comparison")) as writer:
        writer.add_text("comparison", (out / "comparison.md").read_text())
        pixels = np.asarray(Image.open(out / "comparison.png").convert("RGB"))
        writer.add_image("comparison", pixels, dataformats="HWC")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", help="folders of finished runs, or overrides")
    parser.add_argument("--out", type=Path, help="folder of the comparison; outputs/compare")
    options = parser.parse_args(arguments)
    overrides = [each for each in options.what if "=" in each and not Path(each).is_dir()]
    folders = [Path(each) for each in options.what if each not in overrides]
    if overrides and folders:
        parser.error(f"{folders[0]} and {overrides[0]}: name folders, or overrides, not both")
    out = options.out or (Path("outputs/compare") if overrides else folders[0])
    if overrides:
        train(overrides, out)
    compare(folders or [out], out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("lightning", "tensorboard"):
        logging.getLogger(library).setLevel(logging.WARNING)
    run_script(main, ROOT / "conf", "choose another folder: --out DIR")
