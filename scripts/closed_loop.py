"""The whole loop with a stand-in for the person: sample, rank, learn from the ranks, look.

python scripts/closed_loop.py [--out outputs/closed_loop] [--seed 0] [--noise 0.15]

SFT, 4 responses to each of 300 prompts, the labelling page with its answers ranked through its own
HTTP interface, a reward model of these rankings alone, PPO against it. The stand-in ranks by VADER
and swaps neighbours now and then, as people disagree. Writes loop.json and prints it as a table;
called again after a stop, it goes on. Needs the extra `label`.
"""

import argparse
import json
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hydralign.artifacts import write_json  # noqa: E402
from hydralign.rewards.vader import vader_compound  # noqa: E402

DATA = ["data.template=plain", "data.max_prompt_tokens=24", "data.max_response_tokens=28"]
"""Of the rankings: as data=movie_reviews has it."""

REWARD = ["stage.steps=120", "stage.batch_size=8"]
"""Four passes over some 240 rankings."""

SHOWN = {
    "rankings": "rankings, of 4 responses each",
    "noise": "share of neighbours swapped",
    "reward/pair_accuracy": "reward model: held-out pairs that it ranks as the stand-in did",
    "reward/pair_accuracy_low": "95 % interval, from",
    "reward/pair_accuracy_high": "to",
    "ppo/gold_before": "gold (VADER without noise) of the SFT policy",
    "ppo/gold_after": "gold of the PPO policy",
    "ppo/win_rate": "win rate by the reward model",
    "ppo/kl_per_sequence": "KL, nats a response",
    "ppo/eos_rate": "responses that stop by themselves",
    "ppo/distinct_bigrams_before": "distinct pairs of words, SFT policy",
    "ppo/distinct_bigrams": "the same, PPO policy",
    "minutes": "minutes in all",
}
"""Figures of the table, and what they are."""


def loop(out: Path, seed: int, noise: float) -> dict[str, Any]:
    """Go through the loop, or through what is left of it.

    Args:
        out: folder of everything.
        seed: of the runs and of the stand-in.
        noise: probability that two neighbours of a ranking are swapped.
    """
    settle(out, {"seed": seed, "noise": noise})
    samples, labels = out / "samples.jsonl", out / "labels.sqlite"
    train(out / "sft", seed, "stage=sft", "data=movie_reviews")
    many = ["--per-prompt", "4", "--prompts", "300", "--seed", str(seed)]
    python("scripts/sample.py", out / "sft", *many, "--out", samples)
    with page(labels, samples) as address:
        ranked = rank(address, StandIn(noise, seed))
    start = f"stage.policy={out / 'sft/artifact'}"
    rankings = ["data=labels", f"data.path={labels}", "data.tokenizer_from=movie_reviews", *DATA]
    train(out / "reward", seed, "stage=reward", start, *rankings, *REWARD)
    judge = f"stage.reward_model={out / 'reward/artifact'}"
    train(out / "ppo", seed, "stage=ppo", "data=movie_reviews", start, judge)
    found: dict[str, Any] = {"rankings": ranked, "noise": noise, "seed": seed}
    for stage in ("reward", "ppo"):
        found |= json.loads((out / stage / "metrics.json").read_text())
    return found


def settle(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a loop, or end where the folder holds a loop with others."""
    out.mkdir(parents=True, exist_ok=True)
    noted = out / "settings.json"
    if noted.is_file() and (before := json.loads(noted.read_text())) != settings:
        sys.exit(f"{out} holds a loop with {before}. Choose another folder: --out DIR")
    write_json(noted, settings)


def train(run_dir: Path, seed: int, *overrides: str) -> None:
    """Run a stage; what is finished already stays as it is."""
    python("train.py", *overrides, "model=tiny", f"seed={seed}", f"hydra.run.dir={run_dir}")


def python(*command: str | Path) -> None:
    """Run one of the project's programs; end with it where it fails."""
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


@contextmanager
def page(labels: Path, samples: Path) -> Iterator[str]:
    """Serve the labelling page, and give its address."""
    command: list[str | Path] = [
        "scripts/label.py",
        "serve",
        labels,
        "--samples",
        samples,
        "--port",
        "0",
    ]
    command += ["--overlap", "0"]  # one annotator
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if found := re.search(r"http://\S+", line):
                try:
                    yield found[0]
                finally:
                    server.terminate()
                return
    sys.exit("The labelling page did not start.")


class StandIn:
    """Ranks by VADER's sentiment of prompt and response, not without mistakes."""

    def __init__(self, noise: float, seed: int) -> None:
        """Take a probability that two neighbours are swapped, and a seed."""
        self.noise, self.draw = noise, random.Random(seed)

    def ranks(self, prompt: str, responses: Sequence[str]) -> list[int]:
        """Return the place of each response, 0 for the best; equal sentiments tie.

        Args:
            prompt: text.
            responses: k texts.
        """
        scores = vader_compound([prompt] * len(responses), responses)
        places = [sum(other > score for other in scores) for score in scores]
        order = sorted(range(len(places)), key=lambda index: places[index])
        for first in range(len(order) - 1):
            if self.draw.random() < self.noise:
                order[first : first + 2] = order[first + 1], order[first]
        place_of = dict(zip(order, sorted(places), strict=True))
        return [place_of[index] for index in range(len(places))]


def rank(address: str, stand_in: StandIn) -> int:
    """Rank all that the page hands out, and say how many rankings it holds then."""
    with httpx.Client(base_url=address) as client:
        left = client.get("/api/progress").json()
        with tqdm(total=left["wanted"] - left["rankings"], desc="rank") as bar:
            while item := client.get("/api/next", params={"annotator": "vader"}).json()["item"]:
                ranks = stand_in.ranks(item["prompt"], item["responses"])
                ranking = {"annotator": "vader", "item": item["item"], "ranks": ranks}
                client.post("/api/rankings", json=ranking).raise_for_status()
                bar.update()
        return int(client.get("/api/progress").json()["rankings"])


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown; those that a run does not have are left out."""
    lines = ["| | |", "| --- | --- |"]
    for name, meaning in SHOWN.items():
        if isinstance(value := found.get(name), int | float) and math.isfinite(value):
            lines.append(f"| {meaning} | {value:.3f} |".replace(".000 |", " |"))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/closed_loop"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.15)
    options = parser.parse_args()
    started, new = time.monotonic(), not options.out.exists()
    found = loop(options.out.resolve(), options.seed, options.noise)
    if new:  # else it went on
        found["minutes"] = (time.monotonic() - started) / 60
    write_json(options.out / "loop.json", found)
    print(f"\n{table(found)}\nWritten to {options.out}: loop.json, labels.sqlite and the runs.")


if __name__ == "__main__":
    main()
