"""Run one stage, or a chain of them: find inputs, build, fit, measure, save."""

import logging
import time
import warnings
from functools import partial
from math import isfinite
from pathlib import Path

import lightning as L
import torch
import transformers
from huggingface_hub.utils import enable_progress_bars
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from hydralign import build
from hydralign.artifacts import (
    Manifest,
    finished_before,
    new_manifest,
    without_nan,
    write_artifact,
    write_json,
)
from hydralign.callbacks.checkpoints import (
    CHECKPOINT,
    EVENTS,
    check_fits,
    remove_checkpoint,
    rewind_events,
)
from hydralign.data_source import DataSource
from hydralign.errors import DIVERGED, BadNumbers, UserError
from hydralign.inputs import (
    check_whole,
    config_hash,
    find_inputs,
    lineage,
    other_parents,
    parent_ids,
    read_manifest,
    stage_name,
)
from hydralign.memory import forget_peak, let_go, peak_memory_gb
from hydralign.models.roles import ScalarRole
from hydralign.models.saving import save_role
from hydralign.outcomes import EVALUATION, try_to_write_outcomes
from hydralign.ranks import Ranks
from hydralign.record import (
    check_may_begin,
    check_same_data,
    check_the_same,
    close_record,
    recorded_inputs,
    write_record,
)
from hydralign.report.apart import REPORT, draw_apart
from hydralign.summary import final_table, samples_markdown, samples_table

log = logging.getLogger(__name__)

EVIDENCE = "bad_numbers.json"
"""What a run stopped on."""

SHOWN = 6
"""Samples that the console shows; the run folder keeps more."""


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
        _report(cfg, run_dir)
    log.info("\n%s", final_table(figures))
    return headline


def run_stage(
    cfg: DictConfig, source: DataSource, run_dir: Path, finished: dict[str, Path]
) -> float:
    """Run one stage from its inputs to its artifact.

    Args:
        cfg: of the stage.
        source: of its records, read at most once in a chain.
        run_dir: gets `artifact/`, `metrics.json` and TensorBoard events.
        finished: artifacts of the stages that a chain has run before.

    Returns:
        the stage's headline figure.
    """
    stage_class, settings = build.stage_class(cfg)
    name = stage_name(cfg)
    log.info("\n== %s | model %s | data %s | %s", name, cfg.model.name, cfg.data.name, run_dir)
    checkpoint = run_dir / CHECKPOINT if (run_dir / CHECKPOINT).is_file() else None
    before = recorded_inputs(run_dir) if checkpoint else {}
    inputs = before or find_inputs(cfg, stage_class, settings, finished)
    check_whole(cfg, inputs)
    _say_what_was_taken(inputs)
    fingerprint = config_hash(cfg, inputs)
    ranks = Ranks.here(cfg.hardware.devices)
    record = partial(write_record, run_dir, cfg, inputs, fingerprint=fingerprint, unfinished=True)
    done = finished_before(run_dir / "artifact", fingerprint)
    if done is not None:
        log.info("Already done with the same config; taken as it is.")
        if ranks.first:
            close_record(run_dir, cfg, inputs, fingerprint)
            remove_checkpoint(run_dir)
            _report(cfg, run_dir, anew=False)
        return done.metrics[stage_class.headline]

    if checkpoint:
        check_the_same(run_dir, cfg, fingerprint)
        log.info("Going on from %s.", checkpoint)
    elif ranks.first:
        _clear(run_dir)
        record()
    started = time.perf_counter()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    pieces = build.build_pieces(cfg, source, stage_class, settings, inputs, run_dir, fingerprint)
    trainer = pieces.trainer
    pieces.checkpoints.started = started  # loading counts
    examples = pieces.data.examples.fingerprint()
    if checkpoint:
        check_fits(checkpoint, trainer, pieces.stage)
        check_same_data(run_dir, cfg, examples)
    record = partial(record, data=examples, batch_plan=pieces.stage.batch_plan(pieces.data))
    if ranks.first:
        if checkpoint:
            rewind_events(run_dir)
        record()
    figures, seconds = _train_and_measure(name, pieces, checkpoint, run_dir)
    if ranks.first:
        _save(cfg, pieces, inputs, figures, fingerprint, run_dir)
        # What it would go on from is of no use any more.
        fitting = [sizes.override for sizes in pieces.stage.context.micro_batches]
        alarms = getattr(pieces.stage, "alarms", None)
        told = {"alarms": alarms.raised} if alarms is not None else {}
        record(fitting=fitting, seconds=seconds, **told, unfinished=False)
        remove_checkpoint(run_dir)
        _report(cfg, run_dir)
    trainer.strategy.barrier()  # the next stage of a chain starts from what was saved
    log.info("\n%s", final_table(figures))
    return figures[stage_class.headline]


def _train_and_measure(
    name: str, pieces: build.Pieces, checkpoint: Path | None, run_dir: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Let the Trainer do its work; return the stage's figures, and the seconds of each phase."""
    trainer, stage, checkpoints = pieces.trainer, pieces.stage, pieces.checkpoints
    checkpoints.built = checkpoints.elapsed
    (run_dir / EVIDENCE).unlink(missing_ok=True)
    forget_peak()
    try:
        trainer.fit(stage, pieces.data, ckpt_path=checkpoint, weights_only=True)
        trained = checkpoints.elapsed
        if is_overridden("validation_step", stage):
            trainer.validate(stage, pieces.data, verbose=False)
        trainer.test(stage, pieces.data, verbose=False)
        if bad := [name for name, value in stage.figures.items() if not isfinite(value)]:
            said = f"Figures that are no finite numbers: {', '.join(bad)}. {DIVERGED}"
            raise BadNumbers(said, stage.figures)
    except BadNumbers as error:
        write_json(run_dir / EVIDENCE, without_nan(error.evidence))
        raise UserError(f"{error}\nWhat it came from: {run_dir / EVIDENCE}") from error
    log.info("\nMemory: %.2f GB at the peak; %s planned.", peak_memory_gb(), pieces.plan.summary())
    skipped, seconds = stage.context.guard.skipped, checkpoints.elapsed
    figures = {
        **stage.figures,
        **({f"{name}/steps_left_out": float(skipped)} if skipped else {}),
        f"{name}/seconds": seconds,
        f"{name}/planned_memory_gb": pieces.plan.peak_gb,
        f"{name}/peak_memory_gb": peak_memory_gb(),
    }
    built = checkpoints.built
    return figures, {"build": built, "train": trained - built, "test": seconds - trained}


def _say_what_was_taken(inputs: dict[str, Path]) -> None:
    for name, path in inputs.items():
        known = "" if read_manifest(path) else " (no manifest, so nothing can be checked about it)"
        log.info("stage.%s: took %s%s", name, path, known)
    for note in other_parents(inputs):
        log.warning("Note: %s.", note)


def _clear(run_dir: Path) -> None:
    """Remove what an earlier run in the same folder left: two runs in one would be read as one."""
    for pattern in (EVENTS, EVIDENCE, "metrics.json", "samples.md", EVALUATION, REPORT):
        for path in run_dir.glob(pattern):
            path.unlink()


def _save(
    cfg: DictConfig,
    pieces: build.Pieces,
    inputs: dict[str, Path],
    figures: dict[str, float],
    fingerprint: str,
    run_dir: Path,
) -> None:
    """Write the artifact, the figures and, where there are any, the samples."""
    stage = pieces.stage
    product = getattr(stage, stage.product)
    scalar = isinstance(product, ScalarRole)
    manifest = new_manifest(
        stage=stage_name(cfg),
        lineage=lineage(cfg),
        template_hash=pieces.template_hash,
        config_hash=fingerprint,
        parents=parent_ids(inputs),
        score_mean=product.head.mean.item() if scalar else 0.0,
        score_std=product.head.std.item() if scalar else 1.0,
        score_range=product.head.seen if scalar else None,
        metrics=figures,
    )
    write_json(run_dir / "metrics.json", figures)
    if samples := getattr(stage, "samples", None):
        (run_dir / "samples.md").write_text(samples_markdown(samples))
        log.info("\nBefore and after, on held-out prompts:\n%s", samples_table(samples[:SHOWN]))
    build.log_hyperparameters(cfg, pieces.trainer, {stage.headline: figures[stage.headline]})
    # Where it lies, the stage is taken as finished: only what the report may lack comes after it.
    write_artifact(
        run_dir / "artifact", manifest, lambda folder: save_role(product, pieces.codec, folder)
    )
    if hasattr(stage, "outcomes"):
        try_to_write_outcomes(run_dir, stage.outcomes)


def _report(cfg: DictConfig, run_dir: Path, *, anew: bool = True) -> None:
    """Draw the report of a finished run; without it the run is as good."""
    if cfg.report and (anew or not (run_dir / REPORT).is_file()):
        draw_apart(run_dir)


def quieten_libraries() -> None:
    """Leave the console to what this run has to say."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
    warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # matters to who merges
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    enable_progress_bars()  # of downloads from the hub, which the line above silences too
