"""Kill a run again and again (kill -9) at random moments, and compare it with one left alone.

python scripts/chaos.py [--kills 50] [--minutes 14] [--seed 0]

The run is the whole chain, and each of its stages alone, on a small model made here. Every time it
goes on with resume=DIR. In the end weights and figures must be those of the run left alone.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("good", "bad", "finely made", "dull", "warm and long", "cold", "long", "short")
SMALL = [
    *("model=tiny", "model.vocab_size=300", "model.architecture.hidden_size=32"),
    *("model.architecture.intermediate_size=48", "model.architecture.num_hidden_layers=2"),
    *("data=jsonl", "data.template=plain", "data.max_response_tokens=8", "checkpoint_minutes=0"),
    *("data.splits={train: 0.6, validation: 0.2, test: 0.2}", "samples_every=7"),
    "report=false",
]
SETTINGS = {
    "sft": {"steps": 150, "batch_size": 8, "warmup_steps": 10},
    "reward": {"steps": 100, "batch_size": 4, "warmup_steps": 10},
    "ppo": {"rollouts": 30, "rollout_batch_size": 8, "minibatch_size": 4, "ppo_epochs": 2},
}
OF_THE_MACHINE = ("seconds", "memory_gb", "_per_second")


def make_rows(path: Path) -> None:
    """Write rows that serve all three stages.

    Args:
        path: of the file.
    """
    rows = [
        {
            "prompt": f"a {first} and {second}",
            "response": f" {second} film{' indeed' * (len(first) % 3)}",
            "responses": [f" {first} film", f" {second} end", " so"],
            "ranks": [1, 2, 2],
        }
        for first in WORDS
        for second in WORDS
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def overrides(stage: str, scratch: Path) -> list[str]:
    """Return what train.py is told.

    Args:
        stage: of SETTINGS, or rlhf for all of them.
        scratch: with the rows; outputs go there too.
    """
    where = {name: f"stage.{name}" if stage == "rlhf" else "stage" for name in SETTINGS}
    chosen = SETTINGS if stage == "rlhf" else {stage: SETTINGS[stage]}
    given = [f"{where[name]}.{k}={v}" for name, s in chosen.items() for k, v in s.items()]
    made = f"outputs={scratch / 'alone'}"  # where a stage by itself finds what it starts from
    return [f"stage={stage}", *SMALL, f"data.path={scratch / 'rows.jsonl'}", made, *given]


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start train.py.

    Args:
        arguments: of it.
        log: gets what it says.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        command = [sys.executable, "train.py", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)


def finish(arguments: Sequence[str], log: Path) -> float:
    """Run train.py to its end; return the seconds that it took.

    Raises:
        SystemExit: if it fails.
    """
    started = time.monotonic()
    if start(arguments, log).wait() != 0:
        sys.exit(f"A run failed:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a finished run has come to: its figures, and a hash of all its weights.

    Args:
        folder: of the run.
    """
    figures = json.loads((folder / "metrics.json").read_text())
    weights = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("artifact/*.safetensors"))
    }
    return weights | {k: v for k, v in figures.items() if not k.endswith(OF_THE_MACHINE)}


def torment(stage: str, scratch: Path, alone: float, kills: int, deadline: float) -> Counter[str]:
    """Kill a run at random moments until it has come to its end or was killed often enough.

    Args:
        stage: to run.
        scratch: folder of everything.
        alone: seconds that the run takes when it is left alone.
        kills: the most.
        deadline: by `time.monotonic`, after which it is left alone.
    """
    counts: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(dir=scratch))
    log = scratch / f"{folder.name}.log"
    while True:
        begun = (folder / "run.json").is_file()
        place = f"resume={folder}" if begun else f"hydra.run.dir={folder}"
        process = start([*overrides(stage, scratch), place], log)
        patient = counts["kills"] >= kills or time.monotonic() > deadline
        try:
            status = process.wait(None if patient else random.uniform(0.2, 1.1) * alone)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            counts["kills"] += 1
            continue
        if status != 0:
            sys.exit(f"{folder} could not go on:\n{log.read_text()[-3000:]}")
        break
    counts["went on from a checkpoint"] = log.read_text().count("Going on from")
    counts["runs"] = 1
    counts["equal"] = int(outcome(folder) == outcome(scratch / "alone" / stage))
    return counts


def main(arguments: list[str] | None = None) -> None:
    """Run each stage and the chain alone, then torment them in turns, and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=14, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: %(default)s")
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    deadline = time.monotonic() + 60 * options.minutes
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        make_rows(scratch / "rows.jsonl")
        alone = {}
        for stage in (*SETTINGS, "rlhf"):
            place = f"hydra.run.dir={scratch / 'alone' / stage}"
            alone[stage] = finish([*overrides(stage, scratch), place], scratch / "alone.log")
            print(f"{stage}: {alone[stage]:.0f} s when it is left alone", flush=True)
        while counts["kills"] < options.kills and time.monotonic() < deadline:
            for stage in alone:
                left = options.kills - counts["kills"]
                if left <= 0 or time.monotonic() > deadline:
                    break
                counts += torment(stage, scratch, alone[stage], left, deadline)
                print(f"{stage}: {dict(counts)}", flush=True)
    if counts["equal"] != counts["runs"]:
        sys.exit("Some runs ended with other weights or figures than the run left alone.")
    if counts["kills"] < options.kills or not counts["went on from a checkpoint"]:
        sys.exit("Too few kills, or no run went on from a checkpoint: this shows nothing.")


if __name__ == "__main__":
    main()
