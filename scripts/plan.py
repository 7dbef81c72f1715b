"""Say how much memory a run would take, phase by phase, before anything is loaded.

python scripts/plan.py stage=ppo model=llama7b_lora hardware=gpu_8gb

Takes what train.py takes. Nothing is downloaded but a hub model's config, and that only where its
YAML has no `architecture`. The plan also goes to plan.json in the folder of `outputs`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from hydralign import config
from hydralign.artifacts import write_json
from hydralign.build import stage_class, stage_of_chain
from hydralign.checks import check_settings
from hydralign.explain import explain
from hydralign.inputs import stage_name
from hydralign.planner import Planner, longest
from hydralign.planning.plan import CARD_OVERHEAD_GB, CARDS_GB, MemoryPlan

CONF = Path(__file__).resolve().parents[1] / "conf"


def main(arguments: Sequence[str]) -> None:
    """Plan every stage that the arguments choose, and print and write what comes out."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(arguments))
    check_settings(cfg)
    chain = "chain" in cfg.stage
    stages = [stage_of_chain(cfg, name) for name in cfg.stage.chain] if chain else [cfg]
    plans = {stage_name(stage): plan_stage(stage) for stage in stages}
    path = Path(cfg.outputs) / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plans)
    print(f"Written to {path}.")


def plan_stage(cfg: DictConfig) -> dict[str, Any]:
    """Plan one stage and print it.

    Args:
        cfg: of the stage.

    Returns:
        what plan.json holds of it.
    """
    stage, settings = stage_class(cfg)
    lengths = longest(cfg.data, stage.records[0])
    planner = Planner(cfg, stage, settings, lengths)
    plan = planner.plan()
    print(
        f"\n{stage_name(cfg)}, {cfg.model.name}: prompts of up to {lengths.prompt} tokens, "
        f"responses of up to {lengths.response}"
    )
    show(plan)
    print(f"Peak: {plan.summary()}.")
    overrides = verdicts(planner, plan) if planner.on_gpu else {}
    return {**plan.as_json(), "overrides": overrides}


def verdicts(planner: Planner, plan: MemoryPlan) -> dict[str, str | None]:
    """Print for each size of card whether the plan fits, and what would make it fit.

    Returns:
        the overrides for each; empty where it fits as it is, None where nothing helps.
    """
    found: dict[str, str | None] = {}
    smaller = planner.smaller(plan)
    remedy, reduced = next(smaller)
    for card in sorted(CARDS_GB, reverse=True):
        while not reduced.fits(card):
            step = next(smaller, None)
            if step is None:
                break
            remedy, reduced = step
        overrides = remedy.overrides() if reduced.fits(card) else None
        found[f"{card} GB"] = overrides
        words = {None: "does not fit", "": "fits"}.get(overrides, f"fits with {overrides}")
        print(f"{card:>3} GB card: {words}")
    print(f"(of each card {CARD_OVERHEAD_GB} GB are left to CUDA itself and the desktop)")
    return found


def show(plan: MemoryPlan) -> None:
    """Print the table of phases, the peak in bold."""
    head, *rows = plan.table()
    table = Table(head[0])
    for column in head[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == plan.peak.name else None)
    Console(width=120).print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        message = explain(error, CONF)
        if message is None:
            raise
        sys.exit(message)
