"""Measure what each stage takes, beside what was planned, under the limit of a card.

python scripts/measure_memory.py                              # the whole table, on one large GPU
python scripts/measure_memory.py --at-once 6                  # sooner, without the speeds
python scripts/measure_memory.py --models llama7b_lora --hardware gpu_8gb --stages ppo
python scripts/measure_memory.py --models smollm2_135m_lora --hardware cpu

Models have their true size and random weights, so nothing is downloaded. Prompts have about 256
tokens, responses 128. Each figure comes from a process of its own, which may take no more GPU
memory than the card that its preset is named after has, less 0.7 GB. Writes memory.json and
memory.md to --out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hydralign.allocator import FOR_CUDA, FOR_TORCH  # noqa: E402
from hydralign.artifacts import write_json  # noqa: E402
from hydralign.memory import forget_peak, peak_memory_gb  # noqa: E402
from hydralign.planning.plan import CARD_OVERHEAD_GB  # noqa: E402
from hydralign.run import quieten_libraries  # noqa: E402
from scripts.random_models import built, composed, write_rows  # noqa: E402

STAGES = ("sft", "reward", "ppo", "dpo")
CELLS = [("llama7b_lora", f"gpu_{size}gb") for size in (8, 12, 16, 24)]
CELLS += [("qwen2.5_7b_lora", "gpu_12gb"), ("llama3.1_8b_lora", "gpu_12gb")]
"""What is measured where nothing is asked for."""

LENGTHS = 256, 128
"""Tokens of prompts and responses."""

LONGEST = 120
"""Letters of a failure that the table shows."""

STEPS = 2
FEW = {
    "sft": ["stage.batch_size=8", f"stage.steps={STEPS}", "stage.warmup_steps=0"],
    "dpo": ["stage.batch_size=4", f"stage.steps={STEPS}", "stage.warmup_steps=0"],
    "reward": ["stage.batch_size=4", f"stage.steps={STEPS}", "stage.warmup_steps=0"],
    "ppo": [
        f"stage.rollouts={STEPS}",
        "stage.rollout_batch_size=16",
        "stage.minibatch_size=8",
        "stage.ppo_epochs=1",
        "stage.warmup_rollouts=0",
        "stage.value_warmup_rollouts=0",
    ],
}


def main() -> None:
    """Measure the cells asked for, each in a process of its own, and write the table."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(measure(*arguments.child)))
        return
    models, hardware = arguments.models, arguments.hardware
    if bool(models) != bool(hardware):
        sys.exit("--models and --hardware go together.")
    cells = [(m, h) for m in models or [] for h in hardware] or CELLS
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure_all(
        [(*cell, s) for cell in cells for s in arguments.stages], folder, arguments.at_once
    )
    print(table(rows))


def measure_all(
    cells: Sequence[tuple[str, str, str]], folder: Path, at_once: int
) -> list[dict[str, Any]]:
    """Measure cells and keep the table up to date.

    Args:
        cells: model, preset and stage of each.
        folder: of the table.
        at_once: cells that run side by side; the speed of none of them is told then.
    """
    rows: list[dict[str, Any]] = [
        {"model": model, "hardware": preset, "stage": stage} for model, preset, stage in cells
    ]
    with ThreadPoolExecutor(at_once) as pool:
        row_of = {
            pool.submit(in_a_child, *cell): row for cell, row in zip(cells, rows, strict=True)
        }
        for done in tqdm(as_completed(row_of), total=len(rows)):
            found = done.result()
            if at_once > 1:
                found.pop("tokens_per_second", None)
            row_of[done] |= found
            measured = [row for row in rows if len(row) > 3]
            write_json(folder / "memory.json", {"rows": measured})
            (folder / "memory.md").write_text(table(measured))
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help="names under conf/model")
    parser.add_argument("--hardware", nargs="+", help="names under conf/hardware")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument(
        "--at-once", type=int, default=1, help="cells side by side, on a card that holds them all"
    )
    parser.add_argument("--out", default="outputs/memory", help="folder of the table")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_child(model: str, preset: str, stage: str) -> dict[str, Any]:
    """Measure one cell in a fresh process; a failure becomes the cell's text."""
    command = [sys.executable, __file__, "--child", model, preset, stage]
    settings = FOR_TORCH if preset == "cpu" else FOR_CUDA
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | settings
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:LONGEST]}
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | hardware | stage | planned GB | measured GB | planned / measured | tokens/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row["model"], row["hardware"], row["stage"]]
        if "error" in row:
            cells += ["", row["error"].replace("|", "\\|"), "", ""]
        else:
            planned, measured = row["planned_gb"], row["measured_gb"]
            cells += [f"{planned:.2f}", f"{measured:.2f}", f"{planned / measured:.2f}"]
            speed = row.get("tokens_per_second")
            cells.append("-" if speed is None else f"{speed:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure(model: str, preset: str, stage_name: str) -> dict[str, Any]:
    """Run a few steps of a stage in this process.

    Args:
        model: name under conf/model.
        preset: name under conf/hardware.
        stage_name: one of STAGES.

    Returns:
        GB planned and measured, the device, and tokens a second: those of whole sequences, each
        counted once, whatever is done with it.
    """
    quieten_libraries()
    limit_to_card(preset)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder / "rows.jsonl", LENGTHS)
        cfg = composed(model, preset, stage_name, rows, LENGTHS, FEW[stage_name])
        module, data, plan, trainer = built(cfg, folder)
        torch.cuda.empty_cache()  # of layers before they were quantised
        forget_peak()
        started = time.perf_counter()
        trainer.fit(module, data)
        seconds = time.perf_counter() - started
    sequences = STEPS * module.options.batch_size * data.examples.train[0].sequences
    return {
        "planned_gb": plan.peak_gb,
        "measured_gb": peak_memory_gb(),
        "allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
        "tokens_per_second": sequences * sum(LENGTHS) / seconds,
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "CPU",
    }


def limit_to_card(preset: str) -> None:
    """Let this process take no more GPU memory than the card in the preset's name leaves."""
    if card := re.fullmatch(r"gpu_(\d+)gb", preset):
        total = torch.cuda.get_device_properties(0).total_memory
        usable = int(card[1]) * 2**30 - CARD_OVERHEAD_GB * 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, usable / total))


if __name__ == "__main__":
    main()
