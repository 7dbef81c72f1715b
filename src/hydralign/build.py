"""From config to objects: data, stage and Trainer, with the roles from `model_source`."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from hydralign import config
from hydralign.artifacts import write_json
from hydralign.callbacks.checkpoints import Checkpoints, WholeFile
from hydralign.callbacks.frozen import FrozenWeights
from hydralign.callbacks.memory import ReturnedMemory
from hydralign.callbacks.progress import StageProgressBar
from hydralign.callbacks.ranks import RanksStrategy, SameRun
from hydralign.callbacks.samples import SampleTable
from hydralign.callbacks.vitals import Vitals
from hydralign.data.collate import PromptBatch
from hydralign.data.examples import PromptExample
from hydralign.data.module import RecordDataModule
from hydralign.data.preview import preview
from hydralign.data.splits import Splits
from hydralign.data.templates import template_hash
from hydralign.data_source import DataSource, drawn
from hydralign.errors import UserError
from hydralign.inputs import stage_name
from hydralign.micro_batches import MicroBatches
from hydralign.model_source import build_codec, build_roles
from hydralign.models.codec import Codec
from hydralign.planner import WATCHED_PROMPTS, Planner, found
from hydralign.planning.plan import MemoryPlan
from hydralign.ranks import Ranks
from hydralign.reward_source import build_rewards
from hydralign.rewards.scorers import MODEL_ALONE
from hydralign.stages.context import StageContext
from hydralign.stages.guards import Guard

log = logging.getLogger(__name__)

SIDE_PROMPTS = 256
"""Training prompts for a stage whose own batches hold none."""


def stage_class(cfg: DictConfig) -> tuple[Any, Any]:
    """Return the stage's class, and its settings with their types checked."""
    found: Any = get_class(cfg.stage["_target_"])
    checked = config.read_settings(cfg.stage)
    return found, found.settings(**dataclasses.asdict(checked))


def stage_of_chain(cfg: DictConfig, name: str) -> DictConfig:
    """Return the config that runs one stage of a chain by itself."""
    single = OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "stage"])
    OmegaConf.set_struct(single, False)
    single.stage = cfg.stage[name]
    return single


def read_records(cfg: DictConfig, source: DataSource) -> None:
    """Read what all stages of a chain need, before the first of them runs.

    Raises:
        UserError: if too many rows cannot be used.
    """
    wanted = [stage_class(stage_of_chain(cfg, name))[0].records for name in cfg.stage.chain]
    for kind in dict.fromkeys(kind for kinds in wanted for kind in kinds):
        source.records(kind)


@dataclass(frozen=True)
class Pieces:
    """A stage ready to run."""

    stage: Any
    data: RecordDataModule
    trainer: L.Trainer
    codec: Codec
    template_hash: str
    plan: MemoryPlan

    @property
    def checkpoints(self) -> Checkpoints:
        """The callback that writes them."""
        return next(c for c in self.trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]


def build_pieces(
    cfg: DictConfig,
    source: DataSource,
    stage: Any,
    settings: Any,
    inputs: Mapping[str, Path],
    run_dir: Path,
    fingerprint: str,
) -> Pieces:
    """Build the data, the roles, the stage and its Trainer, and say what was built.

    Args:
        cfg: of the run.
        source: of its records.
        stage: its class.
        settings: its hyperparameters.
        inputs: artifacts to start from, by name.
        run_dir: of the run.
        fingerprint: of config and inputs.
    """
    source.check_offers(stage.records)
    codec = build_codec(cfg.model, source, inputs)
    log.info("Tokens: %s", codec.describe())
    data = build_data(cfg, stage.records[0], settings, source, codec)
    log.info(
        "Sample, what is learned in brackets:\n%s", preview(data.examples.train[0], codec.tokenizer)
    )
    plan = plan_run(cfg, stage, settings, data, run_dir)
    micro_batches = build_micro_batches(cfg, settings, data, plan)
    context, held_out = build_context(cfg, stage, data, source, codec, micro_batches)
    roles = build_roles(cfg, stage, inputs, len(codec.tokenizer))
    module = stage(settings, context, **roles)
    log.info("Batch plan: %s.", module.batch_plan(data))
    if cfg.stop_after:
        log.info("It ends after %d of them: stop_after.", cfg.stop_after)
    trainer = build_trainer(cfg, module, data, context, held_out, run_dir, fingerprint)
    hashed = template_hash(codec.tokenizer, cfg.data.template)
    return Pieces(module, data, trainer, codec, hashed, plan)


def plan_run(
    cfg: DictConfig, stage: Any, settings: Any, data: RecordDataModule, run_dir: Path
) -> MemoryPlan:
    """Plan the memory before any weight is loaded, say what it comes to and keep it.

    Raises:
        UserError: if there is not that much.
    """
    together = settings.batch_size * getattr(settings, "group_size", 1)
    extent = found(data.examples, together, cfg.data.max_response_tokens)
    planner = Planner(cfg, stage, settings, extent)
    plan = planner.plan()
    log.info("Memory plan: %s at the peak.", plan.summary())
    if Ranks.here(cfg.hardware.devices).first:
        planner.check_fits(plan)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / "plan.json", plan.as_json())
    return plan


def build_data(
    cfg: DictConfig, kind: str, settings: Any, source: DataSource, codec: Codec
) -> RecordDataModule:
    """Build the batches that a stage trains on."""
    examples = source.examples(kind, codec)
    for split, part in examples.items():
        if not part:
            raise UserError(
                f"data={cfg.data.name}: the {split} split has no {kind} left. Every stage is "
                "measured on held-out data: bring more records, or raise "
                f"data.splits.{split}."
            )
    hardware, size = cfg.hardware, settings.batch_size
    ranks, collate = Ranks.here(hardware.devices), source.collate(kind, codec)
    whole = kind == "prompt"  # every process knows all prompts; the stage cuts its own minibatches
    return RecordDataModule(
        examples,
        collate,
        make_step=collate if whole else None,
        steps=settings.steps,
        batch_size=size,
        eval_batch_size=max(1, hardware.score_micro_batch_size // rows_of(examples))
        * (1 if whole else ranks.size),
        seed=cfg.seed,
        ranks=Ranks() if whole else ranks,
    )


def rows_of(examples: Splits[Any]) -> int:
    """Return the rows of the largest training example, which are never parted."""
    return max((example.sequences for example in examples.train), default=1)


def build_micro_batches(
    cfg: DictConfig, settings: Any, data: RecordDataModule, plan: MemoryPlan
) -> tuple[MicroBatches, MicroBatches, MicroBatches]:
    """Build the rows at a time in training, in scoring and in generation."""
    hardware, rows = cfg.hardware, rows_of(data.examples)
    step = getattr(settings, "minibatch_size", settings.batch_size) // hardware.devices
    fitting = max(1, hardware.train_micro_batch_size // rows)
    make = partial(
        MicroBatches, planned=f"The plan was {plan.summary()}; plan.json has it by phase. "
    )
    return (
        make(min(step, fitting), "hardware.train_micro_batch_size", rows=rows),
        make(hardware.score_micro_batch_size, "hardware.score_micro_batch_size"),
        make(hardware.generation_batch_size, "hardware.generation_batch_size"),
    )


def build_context(
    cfg: DictConfig,
    stage: Any,
    data: RecordDataModule,
    source: DataSource,
    codec: Codec,
    micro_batches: tuple[MicroBatches, MicroBatches, MicroBatches],
) -> tuple[StageContext, PromptBatch | None]:
    """Build what a stage is given besides roles, and a few held-out prompts to watch."""
    hardware = cfg.hardware
    prompts = _prompts(stage, data, source, codec)
    side = source.prompt_batches(
        drawn(prompts.train, SIDE_PROMPTS), codec, batch_size=hardware.generation_batch_size
    )
    held_out = source.prompt_batches(
        drawn(prompts.validation, WATCHED_PROMPTS), codec, batch_size=WATCHED_PROMPTS
    )
    training, scoring, generation = micro_batches
    context = StageContext(
        codec=codec,
        training=training,
        scoring=scoring,
        generation=generation,
        guard=Guard(cfg.bad_steps_to_skip),
        optimizer=hardware.optimizer,
        max_response_tokens=cfg.data.max_response_tokens,
        gold=source.gold(),
        side_prompts=side,
        seed=cfg.seed,
        ranks=Ranks.here(hardware.devices),
        rewards=build_rewards(cfg.rewards) if "reward_model" in stage.inputs else MODEL_ALONE,
    )
    return context, held_out[0] if held_out else None


def _prompts(
    stage: Any, data: RecordDataModule, source: DataSource, codec: Codec
) -> Splits[PromptExample]:
    """Return prompts to answer: the stage's own, those it asks for, or those of its records."""
    if stage.records[0] == "prompt":
        return data.examples
    if "prompt" in stage.records:
        return source.examples("prompt", codec, most=SIDE_PROMPTS)
    return data.examples.map(
        lambda _, part: [
            PromptExample(example.prompt_ids, codec.decode_ids(example.prompt_ids), None)
            for example in drawn(part, WATCHED_PROMPTS)
        ]
    )


def build_trainer(
    cfg: DictConfig,
    stage: Any,
    data: RecordDataModule,
    context: StageContext,
    held_out: PromptBatch | None,
    run_dir: Path,
    fingerprint: str,
) -> L.Trainer:
    """Build the Trainer: one epoch is the whole run."""
    ranks = context.ranks
    callbacks: list[L.Callback] = [
        SameRun(ranks, fingerprint),
        FrozenWeights(),
        StageProgressBar(stage_name(cfg), len(data.train_dataloader())),
        Vitals(),
        Checkpoints(run_dir, ranks, minutes=cfg.checkpoint_minutes),
        ReturnedMemory(),
    ]
    if held_out is not None:
        callbacks.append(
            SampleTable(held_out, context.codec, every=cfg.samples_every, seed=cfg.seed)
        )
    return L.Trainer(
        accelerator=cfg.hardware.accelerator,
        devices=cfg.hardware.devices,
        strategy=RanksStrategy() if ranks.size > 1 else "auto",
        plugins=WholeFile(),
        precision=cfg.hardware.precision,
        logger=instantiate(cfg.logger)(save_dir=str(run_dir)),
        callbacks=callbacks,
        max_epochs=1,
        limit_train_batches=cfg.stop_after,
        val_check_interval=cfg.validate_every,
        limit_val_batches=cfg.stop_after or 1.0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def log_hyperparameters(cfg: DictConfig, trainer: L.Trainer, headline: dict[str, float]) -> None:
    """Show the run in TensorBoard's HPARAMS tab: what was chosen, and what came of it."""
    chosen: dict[str, Any] = {"seed": cfg.seed, "model": cfg.model.name, "data": cfg.data.name}
    stage = OmegaConf.to_container(cfg.stage, resolve=True)
    assert isinstance(stage, dict)
    chosen |= {str(k): "null" if v is None else v for k, v in stage.items() if k != "_target_"}
    if isinstance(trainer.logger, TensorBoardLogger):
        trainer.logger.log_hyperparams(chosen, headline)
        trainer.logger.save()
