"""Draw the curves of a finished chain.

python scripts/plot_run.py RUN_DIR PICTURE.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PANELS = (
    ("sft", "policy/loss", "SFT: loss (nats per token)", "optimizer step"),
    ("reward", "reward/accuracy", "reward model: pairs ranked as people did", "optimizer step"),
    ("ppo", "reward/score", "PPO: score", "rollout"),
    ("ppo", "kl/per_sequence", "PPO: KL to the SFT policy (nats per response)", "rollout"),
    ("ppo", "rollout/eos_rate", "PPO: responses that stop by themselves", "rollout"),
    ("ppo", "value/explained_variance", "PPO: explained variance of the value model", "rollout"),
)
"""Stage, logged name, title and horizontal axis of each panel."""


def read_scalars(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one logged name; empty where it was never logged."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if name not in events.Tags()["scalars"]:
        return [], []
    scalars = events.Scalars(name)
    return [event.step for event in scalars], [event.value for event in scalars]


def draw(run: Path, picture: Path) -> None:
    """Draw all panels of a chain's run folder into one picture."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    for axis, (stage, name, title, steps) in zip(axes.flat, PANELS, strict=True):
        axis.plot(*read_scalars(run / stage, name), color="#3465a4", linewidth=1.5)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(steps, fontsize=9)
        axis.grid(alpha=0.3)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of stage=rlhf")
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    if missing := [stage for stage, *_ in PANELS if not (arguments.run / stage).is_dir()]:
        parser.error(f"{arguments.run} is no folder of a finished chain: {missing[0]}/ is missing")
    draw(arguments.run, arguments.picture)


if __name__ == "__main__":
    main()
