"""Run what the config asks for: one stage, or a chain of them."""

import logging
import warnings
from pathlib import Path

import torch
import transformers
from huggingface_hub.utils import enable_progress_bars
from omegaconf import DictConfig

from hydralign import build
from hydralign.artifacts import Manifest, write_json
from hydralign.data_source import DataSource
from hydralign.memory import let_go
from hydralign.ranks import Ranks
from hydralign.record import check_may_begin, write_record
from hydralign.stage_run import draw_report, run_stage
from hydralign.summary import final_table

log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Run what the config asks for.

    Args:
        cfg: composed and checked.
        run_dir: where everything goes.

    Returns:
        the headline figure of the (last) stage.

    Raises:
        UserError: for a mistake that the user can mend.
    """
    quieten_libraries()
    ranks = Ranks.here(cfg.hardware.devices)
    if not ranks.first:
        logging.disable(logging.WARNING)  # the first process says it all
    if ranks.size > 1 and cfg.hardware.accelerator != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(ranks.index)  # Lightning does so later, when the base is loaded
    if ranks.first:
        check_may_begin(run_dir, cfg)
    if "chain" in cfg.stage:
        return run_chain(cfg, run_dir)
    return run_stage(cfg, DataSource(cfg.data), run_dir, {})


def run_chain(cfg: DictConfig, run_dir: Path) -> float:
    """Run stages one after the other, each starting from those before it in the same folder.

    Args:
        cfg: `stage.chain` names the stages, whose configs lie beside it.
        run_dir: gets a folder per stage; a stage that is finished there for the same config is
            not run again.
    """
    finished: dict[str, Path] = {}
    figures: dict[str, float] = {}
    headline = float("nan")
    first = Ranks.here(cfg.hardware.devices).first
    if first:
        write_record(run_dir, cfg, {}, unfinished=True)
    source = DataSource(cfg.data)
    build.read_records(cfg, source)  # now: a bad row must not stop the chain half-way
    for name in cfg.stage.chain:
        headline = run_stage(build.stage_of_chain(cfg, name), source, run_dir / name, finished)
        let_go()
        finished[name] = run_dir / name / "artifact"
        figures |= Manifest.read(finished[name]).metrics
    if first:
        write_json(run_dir / "metrics.json", figures)
        write_record(run_dir, cfg, {})
        draw_report(cfg, run_dir)
    log.info("\n%s", final_table(figures))
    return headline


def quieten_libraries() -> None:
    """Leave the console to what this run has to say."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
    warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # matters to who merges
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    enable_progress_bars()  # of downloads from the hub, which the line above silences too
