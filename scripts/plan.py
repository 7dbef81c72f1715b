"""Say how much memory a run would take, phase by phase, before anything is loaded.

python scripts/plan.py stage=ppo model=llama7b_lora hardware=gpu_8gb

Takes what train.py takes. Nothing is downloaded but a hub model's config, and that only where its
YAML has no `architecture`. The plan also goes to plan.json in the folder of `outputs`.
"""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from hydralign import config
from hydralign.artifacts import write_json
from hydralign.checks import check_settings
from hydralign.cli import garbage_kept
from hydralign.explain import run_script

CONF = Path(__file__).resolve().parents[1] / "conf"


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan every stage that the arguments choose, and print and write what comes out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as train.py takes them")
    options = parser.parse_args(arguments)
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=options.overrides)
    check_settings(cfg)
    with garbage_kept():
        plans = {name: plan_stage(name, stage) for name, stage in single_stages(cfg)}
    path = Path(cfg.outputs) / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plans)
    print(f"\nWritten to {path}.")


def single_stages(cfg: DictConfig) -> list[tuple[str, DictConfig]]:
    """Return each stage of a chain, or the only one, with its name."""
    from hydralign.build import stage_of_chain  # only now: it imports torch
    from hydralign.inputs import stage_name

    chain = "chain" in cfg.stage
    stages = [stage_of_chain(cfg, name) for name in cfg.stage.chain] if chain else [cfg]
    return [(stage_name(stage), stage) for stage in stages]


def plan_stage(name: str, cfg: DictConfig) -> dict[str, Any]:
    """Plan one stage and print it.

    Args:
        name: of the stage.
        cfg: of the stage alone.

    Returns:
        what plan.json holds of it.
    """
    from hydralign.build import stage_class
    from hydralign.planner import Planner, possible
    from hydralign.planning.plan import CARD_OVERHEAD_GB
    from hydralign.planning.verdicts import fitting_overrides, plan_table, verdict

    stage, settings = stage_class(cfg)
    extent = possible(cfg.data, stage.records[0])
    planner = Planner(cfg, stage, settings, extent)
    plan = planner.plan()
    print(f"\n{name}, {cfg.model.name}: prompts of up to {extent.prompt} tokens, ", end="")
    print(f"responses of up to {extent.response}\n{plan_table(plan)}\nPeak: {plan.summary()}")
    if not planner.on_gpu:
        return plan.as_json()
    found = fitting_overrides(planner.smaller(plan))
    for card, overrides in found.items():
        print(f"{card:>3} GB card: {verdict(overrides)}")
    print(f"(of each card {CARD_OVERHEAD_GB} GB are left to CUDA itself and to a desktop)")
    return plan.as_json() | {"overrides": {f"{card} GB": found[card] for card in found}}


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # libraries have much to say
    warnings.simplefilter("ignore")
    run_script(main, CONF, "choose another folder: outputs=DIR")
