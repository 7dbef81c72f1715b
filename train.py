"""The entry point: Hydra composes a config, one call runs it."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hydralign import allocator, checks, cli, config

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@cli.job
def main(cfg: DictConfig) -> float:
    """Run one stage or a chain; return its headline figure, which sweepers optimise."""
    checks.check(cfg)
    allocator.set_up(returned=cfg.hardware.return_freed_memory)
    with cli.interrupts_held(), cli.garbage_kept():
        from hydralign.run import run  # only now: it imports torch

        checks.check_machine(cfg)
    return run(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    cli.launch(main, conf_dir=Path(__file__).parent / "conf")
