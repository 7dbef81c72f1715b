"""One stage: find what it starts from, build, fit, measure, save."""

import logging
import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from hydralign import build
from hydralign.artifacts import (
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
from hydralign.memory import forget_peak, peak_memory_gb
from hydralign.models.roles import ScalarRole
from hydralign.models.saving import save_role
from hydralign.outcomes import EVALUATION, try_to_write_outcomes
from hydralign.ranks import Ranks
from hydralign.record import (
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


@dataclass(frozen=True)
class Place:
    """Where a stage runs, and what it starts from."""

    cfg: DictConfig
    run_dir: Path
    inputs: dict[str, Path]
    """Artifacts, by name."""
    fingerprint: str
    """Of config and inputs."""
    checkpoint: Path | None
    """What it goes on from, where it was stopped before."""

    @property
    def writes(self) -> bool:
        """Whether this process writes to the folder: the first of the run does."""
        return Ranks.here(self.cfg.hardware.devices).first

    def record(self, **more: Any) -> None:
        """Write to the folder how the run came about, and what else is known of it."""
        write_record(self.run_dir, self.cfg, self.inputs, fingerprint=self.fingerprint, **more)


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
    place = _find_place(cfg, stage_class, settings, run_dir, finished)
    done = finished_before(run_dir / "artifact", place.fingerprint)
    if done is not None:
        _take_as_it_is(place)
        return done.metrics[stage_class.headline]
    _begin(place)
    started = time.perf_counter()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    pieces = build.build_pieces(
        cfg, source, stage_class, settings, place.inputs, run_dir, place.fingerprint
    )
    pieces.checkpoints.started = started  # loading counts
    made_of = _record_pieces(place, pieces)
    figures, seconds = _train_and_measure(place, pieces)
    if place.writes:
        _save(place, pieces, figures)
        _close(place, pieces, **made_of, seconds=seconds)
    pieces.trainer.strategy.barrier()  # the next stage of a chain starts from what was saved
    log.info("\n%s", final_table(figures))
    return figures[stage_class.headline]


def _find_place(
    cfg: DictConfig, stage_class: Any, settings: Any, run_dir: Path, finished: dict[str, Path]
) -> Place:
    name = stage_name(cfg)
    log.info("\n== %s | model %s | data %s | %s", name, cfg.model.name, cfg.data.name, run_dir)
    checkpoint = run_dir / CHECKPOINT if (run_dir / CHECKPOINT).is_file() else None
    before = recorded_inputs(run_dir) if checkpoint else {}
    inputs = before or find_inputs(cfg, stage_class, settings, finished)
    check_whole(cfg, inputs)
    _say_what_was_taken(inputs)
    return Place(cfg, run_dir, inputs, config_hash(cfg, inputs), checkpoint)


def _say_what_was_taken(inputs: dict[str, Path]) -> None:
    for name, path in inputs.items():
        known = "" if read_manifest(path) else " (no manifest, so nothing can be checked about it)"
        log.info("stage.%s: took %s%s", name, path, known)
    for note in other_parents(inputs):
        log.warning("Note: %s.", note)


def _take_as_it_is(place: Place) -> None:
    log.info("Already done with the same config; taken as it is.")
    if place.writes:
        close_record(place.run_dir, place.cfg, place.inputs, place.fingerprint)
        remove_checkpoint(place.run_dir)
        draw_report(place.cfg, place.run_dir, anew=False)


def _begin(place: Place) -> None:
    """Check that what was stopped may go on, or clear the folder for a new run."""
    if place.checkpoint:
        check_the_same(place.run_dir, place.cfg, place.fingerprint)
        log.info("Going on from %s.", place.checkpoint)
    elif place.writes:
        _clear(place.run_dir)
        place.record(unfinished=True)


def _clear(run_dir: Path) -> None:
    """Remove what an earlier run in the same folder left: two runs in one would be read as one."""
    for pattern in (EVENTS, EVIDENCE, "metrics.json", "samples.md", EVALUATION, REPORT):
        for path in run_dir.glob(pattern):
            path.unlink()


def _record_pieces(place: Place, pieces: build.Pieces) -> dict[str, Any]:
    """Record what the run is made of, once it is sure that a checkpoint fits it; return that."""
    examples = pieces.data.examples.fingerprint()
    if place.checkpoint:
        check_fits(place.checkpoint, pieces.trainer, pieces.stage)
        check_same_data(place.run_dir, place.cfg, examples)
    made_of = {"data": examples, "batch_plan": pieces.stage.batch_plan(pieces.data)}
    if place.writes:
        if place.checkpoint:
            rewind_events(place.run_dir)
        place.record(**made_of, unfinished=True)
    return made_of


def _train_and_measure(
    place: Place, pieces: build.Pieces
) -> tuple[dict[str, float], dict[str, float]]:
    """Let the Trainer do its work; return the stage's figures, and the seconds of each phase."""
    trainer, stage, checkpoints = pieces.trainer, pieces.stage, pieces.checkpoints
    evidence = place.run_dir / EVIDENCE
    evidence.unlink(missing_ok=True)
    checkpoints.built = checkpoints.elapsed
    forget_peak()
    try:
        trainer.fit(stage, pieces.data, ckpt_path=place.checkpoint, weights_only=True)
        trained = checkpoints.elapsed
        if is_overridden("validation_step", stage):
            trainer.validate(stage, pieces.data, verbose=False)
        trainer.test(stage, pieces.data, verbose=False)
        if bad := [name for name, value in stage.figures.items() if not isfinite(value)]:
            said = f"Figures that are no finite numbers: {', '.join(bad)}. {DIVERGED}"
            raise BadNumbers(said, stage.figures)
    except BadNumbers as error:
        write_json(evidence, without_nan(error.evidence))
        raise UserError(f"{error}\nWhat it came from: {evidence}") from error
    log.info("\nMemory: %.2f GB at the peak; %s planned.", peak_memory_gb(), pieces.plan.summary())
    seconds, built = checkpoints.elapsed, checkpoints.built  # of a checkpoint too
    phases = {"build": built, "train": trained - built, "test": seconds - trained}
    return _figures(stage_name(place.cfg), pieces, seconds), phases


def _figures(name: str, pieces: build.Pieces, seconds: float) -> dict[str, float]:
    """Return what the stage measured, and what it took."""
    skipped = pieces.stage.context.guard.skipped
    return {
        **pieces.stage.figures,
        **({f"{name}/steps_left_out": float(skipped)} if skipped else {}),
        f"{name}/seconds": seconds,
        f"{name}/planned_memory_gb": pieces.plan.peak_gb,
        f"{name}/peak_memory_gb": peak_memory_gb(),
    }


def _save(place: Place, pieces: build.Pieces, figures: dict[str, float]) -> None:
    """Write the artifact, the figures and, where there are any, the samples."""
    cfg, run_dir, stage = place.cfg, place.run_dir, pieces.stage
    product = getattr(stage, stage.product)
    scalar = isinstance(product, ScalarRole)
    manifest = new_manifest(
        stage=stage_name(cfg),
        lineage=lineage(cfg),
        template_hash=pieces.template_hash,
        config_hash=place.fingerprint,
        parents=parent_ids(place.inputs),
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


def _close(place: Place, pieces: build.Pieces, **known: Any) -> None:
    """Record that the run is finished; what it would go on from is of no use any more."""
    context = pieces.stage.context
    known["fitting"] = [sizes.override for sizes in context.micro_batches]
    if (alarms := getattr(pieces.stage, "alarms", None)) is not None:
        known["alarms"] = alarms.raised
    place.record(**known, unfinished=False)
    remove_checkpoint(place.run_dir)
    draw_report(place.cfg, place.run_dir)


def draw_report(cfg: DictConfig, run_dir: Path, *, anew: bool = True) -> None:
    """Draw the report of a finished run; without it the run is as good.

    Args:
        cfg: of the run.
        run_dir: gets `report.html`.
        anew: whether one that is there is replaced.
    """
    if cfg.report and (anew or not (run_dir / REPORT).is_file()):
        draw_apart(run_dir)
