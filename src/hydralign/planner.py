"""A config's memory plan: what its stage will take, whether that fits, and what would make it."""

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from hydralign import models, planning, rl
from hydralign.allocator import broken_below
from hydralign.artifacts import digest, write_json
from hydralign.data.pypi import cache_folder
from hydralign.data.splits import Splits
from hydralign.errors import UserError
from hydralign.memory import free_bytes, resident_bytes
from hydralign.model_source import describe_model, wanted_roles
from hydralign.planning.dry_run import PHASE_KINDS, Workload
from hydralign.planning.plan import CARD_OVERHEAD_GB, MemoryPlan, plan_memory
from hydralign.planning.remedies import Remedy, remedies

WATCHED_PROMPTS = 8
"""Held-out prompts whose responses are shown again and again."""

FIRST_STAGE = 50_000_000
"""Bytes of code and buffers that the first stage of a process touches and that stay: measured."""

_planned = itertools.count()
"""Stages of this process."""


@dataclass(frozen=True)
class Extent:
    """How large the data of a stage are."""

    prompt: int
    """Tokens of the longest prompt."""
    response: int
    """Tokens of the longest response."""
    sequences: int = 1
    """Of each example: a comparison has several, which are never parted."""
    rows: int | None = None
    """The most sequences that can come together in a pass without gradients; None is any number."""


def possible(data: DictConfig, kind: str) -> Extent:
    """Return what a data config lets through, for a plan before anything is read.

    Args:
        data: the config.
        kind: of record that the stage trains on.
    """
    ranked = data.max_comparison_tokens if kind == "comparison" else None
    pair = 2 if kind == "comparison" else 1  # at least
    return Extent(data.max_prompt_tokens, ranked or data.max_response_tokens, pair)


def found(splits: Splits[Any], batch_size: int, sampled_tokens: int) -> Extent:
    """Return what a stage will really see.

    Args:
        splits: its examples.
        batch_size: examples in a training batch, or responses where they are sampled.
        sampled_tokens: of the longest response, where it is yet to be sampled.
    """
    examples = [example for _, part in splits.items() for example in part]
    sequences = max(example.sequences for example in examples)
    prompt = max(len(example.prompt_ids) for example in examples)
    response = max(example.length - len(example.prompt_ids) for example in examples)
    held_out = max(len(splits.validation), len(splits.test))
    rows = max(batch_size, held_out) * sequences
    return Extent(prompt, response or sampled_tokens, sequences, rows)


class Planner:
    """Plans one stage of a config; nothing is loaded."""

    def __init__(self, cfg: DictConfig, stage: Any, settings: Any, extent: Extent) -> None:
        """Read the config.

        Args:
            cfg: of the run.
            stage: its class.
            settings: its hyperparameters.
            extent: of its records.
        """
        self.cfg = cfg
        self.specs = wanted_roles(cfg, stage)
        broken = 0 if self.on_gpu else broken_below(returned=cfg.hardware.return_freed_memory)
        self.work = _workload(cfg, stage, settings, extent, broken)
        self.base, self.shape = describe_model(cfg.model)

    @property
    def on_gpu(self) -> bool:
        """Whether the plan is about a card rather than main memory."""
        accelerator = self.cfg.hardware.accelerator
        if accelerator == "mps":
            return False  # it has main memory
        return accelerator != "cpu" and (accelerator != "auto" or torch.cuda.is_available())

    def plan(self) -> MemoryPlan:
        """Plan the stage as it is configured."""
        return self._replan(self.work, PHASE_KINDS)

    def smaller(self, plan: MemoryPlan) -> Iterator[tuple[Remedy, MemoryPlan]]:
        """Yield settings of the hardware that take less and less, the present ones first.

        Args:
            plan: as it is configured.
        """
        return remedies(plan, self.work, self._replan, paged=self.on_gpu)

    def check_fits(self, plan: MemoryPlan) -> None:
        """Check a plan against the machine.

        Raises:
            UserError: if there is too little memory. It names settings that would do.
        """
        limit = self.limit_gb()
        if plan.peak_gb <= limit:
            return
        for remedy, smaller in self.smaller(plan):
            if smaller.peak_gb <= limit:
                advice = f"It fits with {remedy.overrides()}."
                break
        else:
            advice = (
                "No setting of hardware makes it fit: take model.quantization=nf4 with "
                "model.lora, a smaller model, or shorter texts (data.max_prompt_tokens)."
            )
        said = " (hardware.memory_gb)" if self.cfg.hardware.memory_gb is not None else ""
        raise UserError(
            f"This run would take {plan.peak_gb:.1f} GB ({plan.peak.name}), and there are "
            f"{limit:.1f} GB for it{said}. {advice}\n"
            "To try it all the same, say how much it may take: hardware.memory_gb=GB."
        )

    def limit_gb(self) -> float:
        """Return what the run may take, in GB."""
        if self.cfg.hardware.memory_gb is not None:
            return self.cfg.hardware.memory_gb
        free = free_bytes(on_gpu=self.on_gpu) / 1e9
        if self.on_gpu:
            return free - CARD_OVERHEAD_GB
        return free / self.cfg.hardware.devices + resident_bytes() / 1e9

    def _replan(self, work: Workload, kinds: Collection[str]) -> MemoryPlan:
        asked = (self.base, self.shape, self.specs, work, tuple(kinds))
        plan = remembered(lambda: plan_memory(*asked), asked)
        return plan if self.on_gpu else plan.plus("process", self.process)

    @cached_property
    def process(self) -> int:
        """Bytes that the process takes beside the networks; asked before there are any."""
        return resident_bytes() + (FIRST_STAGE if next(_planned) == 0 else 0)


def remembered(make: Callable[[], MemoryPlan], asked: Sequence[object]) -> MemoryPlan:
    """Make a plan, or take it from the cache: a dry run takes seconds and always says the same.

    Args:
        make: makes it.
        asked: all that decides what it says, but for the code, which counts too.
    """
    key = digest([*map(str, asked), _code()])
    path = cache_folder() / "plans" / f"{key}.json"
    if path.is_file():
        return MemoryPlan.from_json(json.loads(path.read_text()))
    plan = make()
    with suppress(OSError):  # a full disk is no reason to stop here
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan.as_json())
    return plan


@cache
def _code() -> str:
    """Hash the code whose passes a dry run makes."""
    folders = [Path(module.__path__[0]) for module in (planning, models, rl)]
    files = sorted(path for folder in folders for path in folder.glob("*.py"))
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
    return digest([*(path.read_text() for path in files), *versions])


def _workload(cfg: DictConfig, stage: Any, settings: Any, extent: Extent, broken: int) -> Workload:
    hardware = cfg.hardware
    step = getattr(settings, "minibatch_size", settings.batch_size) // hardware.devices
    n = extent.sequences
    together = min(step, max(1, hardware.train_micro_batch_size // n))
    # A stage that asks for no prompts answers only those that are watched.
    answered = hardware.generation_batch_size if "prompt" in stage.records else WATCHED_PROMPTS
    rows = extent.rows or max(hardware.score_micro_batch_size, answered)
    if stage.records[0] == "prompt":
        answered = min(answered, rows)
    elif "prompt" in stage.records:
        rows = max(rows, answered)  # which are scored too
    return Workload(
        prompt_tokens=extent.prompt,
        response_tokens=extent.response,
        sampled_tokens=cfg.data.max_response_tokens,
        rows_per_example=n,
        train_rows=together * n,
        score_rows=min(max(1, hardware.score_micro_batch_size // n) * n, rows),
        generation_rows=min(hardware.generation_batch_size, answered),
        accumulates=together < step,
        mixed=hardware.precision == "bf16-mixed",
        checkpoints=hardware.gradient_checkpointing,
        logits_mb=hardware.logits_mb,
        attention=hardware.attention,
        broken_below=broken,
        optimizer=hardware.optimizer,
    )
