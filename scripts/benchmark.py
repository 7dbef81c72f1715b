"""Time hydralign and TRL 1.12.0 on the same work, in turns, and tell speed and memory.

python scripts/benchmark.py [--works ppo-smollm2 ...] [--repeats 5] [--threads 2] [--out FILE]

Same model, rows, batch, lengths, epochs and optimizer on both sides, every measurement a process of
its own, in the order A B A B, the first step of each not timed. Ratios are taken pair by pair.
Needs the extra `test`; the works on SmolLM2 also the folder that scripts/make_smollm2.py makes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# No torch here: a process starts its peak at the memory of the one that it was forked from.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.benchmark_inputs import (  # noqa: E402
    SMOLLM2,
    Work,
    make_rows,
    make_smollm2,
    overrides_of,
)

WORKS = {
    "ppo-smollm2": Work("ppo", "smollm2", rows=16, steps=2),
    "ppo-smollm2-stopping": Work("ppo", "smollm2", rows=16, steps=2, stop="."),
    "ppo-smollm2-twice-prompts": Work("ppo", "smollm2", rows=32, steps=2),
    "ppo-smollm2-twice-length": Work("ppo", "smollm2", rows=16, steps=2, response_tokens=64),
    "grpo-smollm2": Work("grpo", "smollm2", rows=16, steps=2),
    "rloo-smollm2": Work("rloo", "smollm2", rows=16, steps=2),
    "sft-smollm2": Work("sft", "smollm2", rows=16, steps=5),
    "reward-smollm2": Work("reward", "smollm2", rows=8, steps=5),
    "dpo-smollm2": Work("dpo", "smollm2", rows=8, steps=5),
    "ppo-tiny": Work("ppo", "tiny", rows=64, steps=6),
    "grpo-tiny": Work("grpo", "tiny", rows=64, steps=6),
    "rloo-tiny": Work("rloo", "tiny", rows=64, steps=6),
    "sft-tiny": Work("sft", "tiny", rows=32, steps=16),
    "reward-tiny": Work("reward", "tiny", rows=16, steps=16),
    "dpo-tiny": Work("dpo", "tiny", rows=16, steps=16),
}


@dataclass(frozen=True)
class Contestant:
    """Who does the work, and how."""

    who: str
    how: str
    dtype: str
    overrides: tuple[str, ...] = ()
    """hydralign: what it is told besides the work."""


CONTESTANTS = {
    "hydralign": Contestant("hydralign", "hardware=cpu as it is", "default"),
    "hydralign-fp32": Contestant("hydralign", "fp32", "float32", ("model.dtype=float32",)),
    "hydralign-sparing": Contestant(
        "hydralign",
        "activations checkpointed",
        "default",
        ("hardware.gradient_checkpointing=true",),
    ),
    "trl-bf16": Contestant("TRL", "bf16 networks", "bfloat16"),
    "trl-fp32": Contestant("TRL", "fp32", "float32"),
}


def prepare(works: Sequence[Work], scratch: Path, threads: int) -> None:
    """Make all that the measured runs start from: rows, models, SFT and reward artifacts.

    Args:
        works: to come.
        scratch: folder to make it in.
        threads: of the stages.
    """
    make_rows(scratch)
    for work in {work.folder: work for work in works}.values():
        if work.model == "smollm2":
            make_smollm2(scratch / work.folder, work.stop)
        else:
            _run([Path(__file__), "--make-tiny", scratch / work.folder], threads)
        for stage in ("sft", "reward"):
            _run([ROOT / "train.py", *overrides_of(work, scratch, stage)], threads)


def make_tiny(folder: Path) -> None:
    """Make the network of model=tiny at random, with the tokenizer of the movie reviews."""
    from omegaconf import OmegaConf
    from transformers import AutoModelForCausalLM

    from hydralign.data.pypi import cache_folder
    from hydralign.data_source import DataSource
    from hydralign.models.loading import config_of
    from hydralign.models.tiny_tokenizer import trained_tokenizer
    from scripts.benchmark_hydralign import composed

    cfg = composed(["stage=sft", "model=tiny", "data=movie_reviews"])
    size = cfg.model.vocab_size
    texts = DataSource(cfg.data).training_texts()
    trained_tokenizer(texts, size, cache_folder()).save_pretrained(folder)
    shape: Any = OmegaConf.to_container(cfg.model.architecture)
    model = AutoModelForCausalLM.from_config(config_of({**shape, "vocab_size": size}))
    model.save_pretrained(folder)


def measure(work: str, name: str, scratch: Path, threads: int) -> dict[str, float]:
    """Measure a contestant in a process of its own.

    Args:
        work: its name.
        name: of the contestant.
        scratch: as `prepare` made it.
        threads: of its products; more than there are idle cores make them wait for each other.
    """
    command: list[str | Path] = [Path(__file__), "--measure", work, name, "--scratch", scratch]
    found: dict[str, float] = json.loads(_run(command, threads).splitlines()[-1])
    return found


def _run(command: Sequence[str | Path], threads: int) -> str:
    """Run Python in another process, without a GPU, and return what it prints.

    Raises:
        SystemExit: with the end of what it said, if it fails.
    """
    fixed = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **fixed},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def summarise(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return a row for each contestant: medians, and ratios to the TRL that is faster or smaller.

    Args:
        runs: the figures of every run, by contestant, in the order in which they alternated.
    """
    medians = {
        name: {key: median(run[key] for run in measured) for key in measured[0]}
        for name, measured in runs.items()
    }
    theirs = [name for name in runs if CONTESTANTS[name].who == "TRL"]
    fastest = max(theirs, key=lambda n: medians[n]["tokens_per_second"], default=None)
    smallest = min(theirs, key=lambda n: medians[n]["peak_gb"], default=None)
    rows = []
    for name, found in medians.items():
        row: dict[str, Any] = {"who": CONTESTANTS[name].who, "how": CONTESTANTS[name].how, **found}
        for key, other in (("tokens_per_second", fastest), ("peak_gb", smallest)):
            pairs = zip(runs[name], runs[other], strict=True) if other else ()
            ratios = [ours[key] / its[key] for ours, its in pairs]
            row[f"{key}_ratio"] = median(ratios) if ratios else None
        rows.append(row)
    return rows


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as a Markdown table.

    Args:
        rows: as `summarise` returns them.
    """
    lines = [
        "| who | how | tokens/s | of TRL's | s a step | generate, score, train | peak GB | "
        "of TRL's | MFU |"
    ]
    lines += ["| --- " * 9 + "|"]
    for row in rows:
        phases = [row.get(f"{name}_seconds") for name in ("generate", "score", "train")]
        cells = [
            row["who"],
            row["how"],
            f"{row['tokens_per_second']:.1f}",
            _or_dash(row["tokens_per_second_ratio"], ".2f"),
            f"{row['seconds_per_step']:.2f}",
            ", ".join(_or_dash(seconds, ".1f") for seconds in phases),
            f"{row['peak_gb']:.2f}",
            _or_dash(row["peak_gb_ratio"], ".0%"),
            _or_dash(row.get("mfu"), ".0%"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def compare(works: Sequence[str], names: Sequence[str], repeats: int, threads: int) -> Any:
    """Measure all contestants in turn, as often as asked, and show a table for each work.

    Args:
        works: their names.
        names: of the contestants.
        repeats: measurements of each.
        threads: of each process.
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        prepare([WORKS[work] for work in works], Path(scratch), threads)
        for work in works:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(repeats):
                for name in names:
                    runs[name].append(measure(work, name, Path(scratch), threads))
                    print(f"{work} {name}: {json.dumps(runs[name][-1])}", flush=True)
            results[work] = {"rows": summarise(runs), "runs": runs}
            print(f"\n{work}\n{format_table(results[work]['rows'])}\n", flush=True)
    return {"threads": threads, "works": results}


def main(arguments: list[str] | None = None) -> None:
    """Compare, or do one part of it in this very process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, default=["hydralign", "trl-bf16", "trl-fp32"]
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="of each; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="%(default)s")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make-tiny", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make_tiny:
        make_tiny(options.make_tiny)
    elif options.measure:
        print(json.dumps(_measured(options.measure[0], options.measure[1], options.scratch)))
    elif not (SMOLLM2 / "model.safetensors").is_file() and any(
        "smollm2" in w for w in options.works
    ):
        sys.exit(f"{SMOLLM2} holds no model. Make it: python scripts/make_smollm2.py")
    else:
        found = compare(options.works, options.only, options.repeats, options.threads)
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        print(f"Written to {options.out}.")


def _measured(work: str, name: str, scratch: Path) -> dict[str, float]:
    from scripts import benchmark_hydralign, benchmark_trl

    contestant = CONTESTANTS[name]
    if contestant.who == "hydralign":
        return benchmark_hydralign.measure(WORKS[work], contestant.overrides, scratch)
    return benchmark_trl.measure(WORKS[work], contestant.dtype, scratch)


if __name__ == "__main__":
    main()
