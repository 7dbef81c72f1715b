"""Take a finished model away: the plain form of Hugging Face, checked against the run's own."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from hydralign.errors import UserError
from hydralign.export.card import Facts, model_card
from hydralign.export.drift import Drift
from hydralign.export.place import check_free, check_room, writing, written_aside
from hydralign.export.recipe import BESIDE, Recipe, adapter_recipe
from hydralign.export.writing import (
    generation_settings,
    plain_pad_id,
    plain_tokenizer,
    score_shift,
    write_adapter,
    write_whole,
)
from hydralign.export_check import measure
from hydralign.finished import Policy, RewardModel, open_policy, open_reward_model
from hydralign.inputs import is_hub_id, lineage
from hydralign.model_source import describe_model, full_base, quantization_of
from hydralign.models.loading import load_adapter
from hydralign.models.merging import check_classifier, merged
from hydralign.models.roles import ScalarRole
from hydralign.record import commands_of
from hydralign.runs import Run, find_policy, find_runs

log = logging.getLogger(__name__)

FORMS = ("adapter", "merged")
DTYPES = ("float32", "bfloat16")
MAX_DRIFT = {"policy": 0.01, "reward model": 0.05}
"""Nats per token, and standard deviations of the scores."""


@dataclass(frozen=True)
class Wanted:
    """What the user asks for; None is what suits the run."""

    form: str | None = None
    """One of `FORMS`."""
    dtype: str | None = None
    """One of `DTYPES`."""
    max_drift: float | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise UserError(f"--dtype {self.dtype}: use {' or '.join(DTYPES)}.")
        if self.max_drift is not None and not self.max_drift >= 0:
            raise UserError(f"--max-drift {self.max_drift}: a number of 0 or more.")


@dataclass(frozen=True)
class Exported:
    """What came of it."""

    folder: Path
    """Resolved."""
    recipe: Recipe
    drift: Drift

    @property
    def files(self) -> dict[str, int]:
        """Bytes of each file, by its path in the folder."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.stat().st_size for path in paths}

    def summary(self) -> str:
        """Return files, drift and the lines that load it, for the console."""
        files = self.files
        sizes = [f"  {size / 1e6:9.3f} MB  {name}" for name, size in files.items()]
        apart = [f"  {value:9.3g}  {name}" for name, value in self.drift.figures.items()]
        return "\n".join(
            [f"Written to {self.folder}, {sum(files.values()) / 1e6:.2f} MB:", *sizes]
            + ["", "Against the run's own model:", *apart]
            + ["", "To load it:", "", *self.recipe.lines(str(self.folder)).splitlines()]
        )


def export(source: Path, target: Path, wanted: Wanted) -> Exported:
    """Write a finished model in the form that plain transformers and peft load.

    Args:
        source: folder of a run, of a chain, or an artifact.
        target: folder to write; must not exist, or be empty.
        wanted: in which form.

    Raises:
        UserError: if there is nothing to export, it cannot be written, or what was written departs
            too far from the run's own model. Nothing is left in the target then.
    """
    target = target.resolve()
    check_free(target)
    runs = find_runs(source)
    alone_and_scores = len(runs) == 1 and not runs[0].is_policy
    run = runs[0] if alone_and_scores else find_policy(source)
    form = _chosen_form(run, wanted)
    log.info("Loading %s", run.artifact)
    opened = open_policy(run.artifact) if run.is_policy else open_reward_model(run.artifact)
    with written_aside(target) as aside:
        if form == "adapter":
            recipe = _write_adapter(opened, aside, target)
        else:
            recipe = _write_whole(opened, wanted.dtype, aside, target)
        with writing(target):
            _write_text_side(opened, aside)
        log.info("Loading it again with plain libraries, and comparing")
        drift = measure(opened, recipe, aside)
        _check_drift(drift, _most(wanted, run), run)
        facts = _facts(opened, recipe, drift, wanted.licence)
        with writing(target):
            (aside / "README.md").write_text(model_card(facts))
    return Exported(target, recipe, drift)


def _chosen_form(run: Run, wanted: Wanted) -> str:
    """Return `adapter` or `whole`, if the run has it and its base is where it was."""
    cfg, made_on = run.config, run.manifest.lineage.base
    if cfg.model.lora is None:
        if wanted.form == "adapter":
            raise UserError(
                f"{run.artifact} is no adapter: all its weights were trained, so it is whole "
                "already. Leave --adapter out."
            )
        return "whole"
    if (now := lineage(cfg).base) != made_on:
        raise UserError(
            f"{run.artifact} was trained on the base {made_on}, but what is found at "
            f"model.source={cfg.model.source} now is {now}, or nothing. Put the base back where it "
            "was (a relative path counts from the working folder)."
        )
    if not run.is_policy:  # whole ones are classifiers already
        check_classifier(describe_model(cfg.model)[0].config)
    if wanted.form != "merged" and wanted.dtype is not None:
        raise UserError("--dtype is for merged models; an adapter stays as it is. Add --merged.")
    return "whole" if wanted.form == "merged" else "adapter"


def _write_whole(
    opened: Policy | RewardModel, dtype: str | None, aside: Path, target: Path
) -> Recipe:
    """Write all weights, an adapter merged into its base."""
    cfg, role = opened.config, opened.role
    usual = cfg.model.dtype if cfg.model.dtype in DTYPES else DTYPES[0]
    lora, adapter, scaling = cfg.model.lora, dict[str, Tensor](), 1.0
    if lora is not None:
        log.info("Merging the adapter into its base")
        adapter, scaling = load_adapter(opened.artifact)[0], lora.alpha / lora.rank
    model = merged(role, adapter, scaling, getattr(torch, dtype or usual))
    check_room(model, aside)
    with writing(target):
        write_whole(role, model, opened.codec, aside)
    return Recipe(isinstance(role, ScalarRole))


def _write_adapter(opened: Policy | RewardModel, aside: Path, target: Path) -> Recipe:
    """Write the adapter, and its base beside it where others could not find that."""
    cfg, role, codec = opened.config, opened.role, opened.codec
    base = _hub_id(cfg)
    if base is None:
        log.info("Writing the base beside the adapter")
        model = full_base(cfg, len(codec.tokenizer))
        check_room(model, aside)
        with writing(target):
            model.save_pretrained(aside / BESIDE)
    with writing(target):
        write_adapter(role, opened.artifact, base or str(target / BESIDE), aside)
    return adapter_recipe(
        base or BESIDE,
        cfg.model.dtype,
        quantization_of(cfg.model),
        scalar=isinstance(role, ScalarRole),
        pad_id=plain_pad_id(role, codec),
    )


def _write_text_side(opened: Policy | RewardModel, aside: Path) -> None:
    """Write the tokenizer and, for a policy, how to sample."""
    cfg, codec = opened.config, opened.codec
    plain_tokenizer(codec, cfg.data.template).save_pretrained(aside)
    if isinstance(opened, Policy):
        settings = generation_settings(codec, _temperature(cfg), cfg.data.max_response_tokens)
        settings.save_pretrained(aside)


def _most(wanted: Wanted, run: Run) -> float:
    usual = MAX_DRIFT["policy" if run.is_policy else "reward model"]
    return usual if wanted.max_drift is None else wanted.max_drift


def _check_drift(drift: Drift, most: float, run: Run) -> None:
    if not drift.size <= most:  # NaN is too much as well
        raise UserError(
            f"The exported model departs from that of {run.artifact} by {drift.size:.2g} "
            f"({drift.bounded}), and {most:g} is allowed, so nothing was written. With "
            "--dtype float32 it is closest (--merged); or allow more: --max-drift X."
        )


def _facts(
    opened: Policy | RewardModel, recipe: Recipe, drift: Drift, licence: str | None
) -> Facts:
    cfg, manifest = opened.config, opened.run.manifest
    scalar = isinstance(opened, RewardModel)
    return Facts(
        name=cfg.model.name,
        stage=manifest.stage,
        recipe=recipe,
        base=_hub_id(cfg) or cfg.model.source or manifest.lineage.base,
        hub_base=_hub_id(cfg),
        quantization=cfg.model.quantization,
        data=cfg.data.name,
        template=cfg.data.template,
        temperature=_temperature(cfg),
        max_response_tokens=cfg.data.max_response_tokens,
        shift=score_shift(opened.role) if isinstance(opened, RewardModel) else None,
        score_range=manifest.score_range,
        one_at_a_time=scalar and plain_pad_id(opened.role, opened.codec) is None,
        commands=commands_of(opened.run.folder),
        metrics=manifest.metrics,
        versions=manifest.versions,
        drift=drift,
        licence=licence,
    )


def _hub_id(cfg: DictConfig) -> str | None:
    """Return the base's id on the hub, where it has one."""
    source = cfg.model.source
    return source if source and is_hub_id(source) and not Path(source).exists() else None


def _temperature(cfg: DictConfig) -> float:
    """Return the temperature that the policy was trained to be sampled at."""
    return float(cfg.stage.get("temperature", 1.0))
