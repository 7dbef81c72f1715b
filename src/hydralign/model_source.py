"""A model config as objects: its tokenizer, and the roles that a stage asks for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from hydralign.data.pypi import cache_folder
from hydralign.data_source import DataSource
from hydralign.inputs import read_manifest, wanted_inputs
from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import RoleSpec, StartingPoint, make_roles, suit_machine
from hydralign.models.codec import Codec, make_codec
from hydralign.models.loading import BaseModel, find_config, load_tokenizer
from hydralign.models.quantization import Quantization
from hydralign.models.roles import Role
from hydralign.models.tiny_tokenizer import trained_tokenizer
from hydralign.planning.fake_roles import FakeBase


def build_codec(model: DictConfig, source: DataSource, inputs: Mapping[str, Path]) -> Codec:
    """Take the tokenizer of the first input, of the base model, or train one on the data."""
    if inputs:
        tokenizer = load_tokenizer(str(next(iter(inputs.values()))))
    elif model.vocab_size is None:
        tokenizer = load_tokenizer(model.source)
    else:
        tokenizer = trained_tokenizer(source.training_texts(), model.vocab_size, cache_folder())
    return make_codec(tokenizer, model.stop_tokens)


def build_roles(
    cfg: DictConfig, stage: Any, inputs: Mapping[str, Path], vocab_size: int
) -> dict[str, Role]:
    """Build the roles that a stage asks for, on one base or each on its own network."""
    model, base = cfg.model, _base_model(cfg.model, device_of(cfg.hardware.accelerator))
    starts = {name: _starting_point(path) for name, path in inputs.items()}
    size: dict[str, int] = {"vocab_size": vocab_size, "seed": cfg.seed}
    roles = make_roles(base, _lora_shape(model.lora), wanted_roles(cfg, stage), starts, **size)
    suit_machine(
        roles,
        checkpoints=cfg.hardware.gradient_checkpointing,
        logits_mb=cfg.hardware.logits_mb,
        attention=cfg.hardware.attention,
        records_decoding=cfg.hardware.record_decoding,
    )
    return roles


def wanted_roles(cfg: DictConfig, stage: Any) -> dict[str, RoleSpec]:
    """Return the roles of a stage; where no reward model scores, a value model starts afresh."""
    if "reward_model" in wanted_inputs(cfg, stage) or "reward_model" not in stage.inputs:
        return dict(stage.roles)
    afresh = {"starts_from": "policy", "new_head": True}
    return {
        name: replace(spec, **afresh) if spec.starts_from == "reward_model" else spec
        for name, spec in stage.roles.items()
        if spec.trained or spec.starts_from != "reward_model"
    }


def describe_model(model: DictConfig) -> tuple[FakeBase, LoraShape | None]:
    """Return the network without its weights, and the shape of its adapters."""
    config = find_config(model.source, _architecture(model), model.vocab_size)
    base = FakeBase(config, getattr(torch, model.dtype), quantization_of(model))
    return base, _lora_shape(model.lora)


def _base_model(model: DictConfig, device: str) -> BaseModel:
    dtype = getattr(torch, model.dtype)
    return BaseModel(model.source, _architecture(model), dtype, quantization_of(model), device)


def full_base(cfg: DictConfig, vocab_size: int) -> PreTrainedModel:
    """Load what adapters are trained on, all of its layers in full, into main memory."""
    base = replace(_base_model(cfg.model, "cpu"), quantization=None)
    return base.load(vocab_size, cfg.seed)


def _architecture(model: DictConfig) -> Any:
    return model.architecture and OmegaConf.to_container(model.architecture)


def quantization_of(model: DictConfig) -> Quantization | None:
    """Return how a frozen base is stored; None is in full."""
    if model.quantization == "none":
        return None
    dtype = getattr(torch, model.dtype)
    return Quantization(model.quantization, dtype, model.double_quantization)


def device_of(accelerator: str) -> str:
    """Return where weights are quantised, and run: on the card, if one is used."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "cpu" or found is None:
        return "cpu"
    return f"{found.type}:{torch.accelerator.current_device_index()}"


def _lora_shape(lora: DictConfig | None) -> LoraShape | None:
    if lora is None:
        return None
    targets = lora.target_modules
    return LoraShape(lora.rank, lora.alpha, targets if isinstance(targets, str) else tuple(targets))


def _starting_point(path: Path) -> StartingPoint:
    manifest = read_manifest(path)
    if manifest is None:
        return StartingPoint(str(path))
    return StartingPoint(str(path), manifest.score_mean, manifest.score_std, manifest.score_range)
