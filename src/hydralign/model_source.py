"""A model config as objects: its tokenizer, and the roles that a stage asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from hydralign.data.pypi import cache_folder
from hydralign.data_source import DataSource
from hydralign.inputs import read_manifest
from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import StartingPoint, adapter_roles, own_roles
from hydralign.models.codec import Codec, make_codec
from hydralign.models.loading import BaseModel, load_tokenizer
from hydralign.models.quantization import Quantization
from hydralign.models.roles import Role, TextRole
from hydralign.models.tiny_tokenizer import trained_tokenizer


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
    model, base = cfg.model, _base_model(cfg.model)
    starts = {name: _starting_point(path) for name, path in inputs.items()}
    size: dict[str, int] = {"vocab_size": vocab_size, "seed": cfg.seed}
    if model.lora is None:
        roles = own_roles(base, stage.roles, starts, **size)
    else:
        roles = adapter_roles(base, _lora_shape(model.lora), stage.roles, starts, **size)
    _save_memory(roles, cfg.hardware)
    return roles


def _base_model(model: DictConfig) -> BaseModel:
    architecture: Any = model.architecture and OmegaConf.to_container(model.architecture)
    dtype = getattr(torch, model.dtype)
    quantization = None
    if model.quantization != "none":
        quantization = Quantization(model.quantization, dtype, model.double_quantization)
    return BaseModel(model.source, architecture, dtype, quantization)


def _lora_shape(lora: DictConfig) -> LoraShape:
    targets = lora.target_modules
    return LoraShape(lora.rank, lora.alpha, targets if isinstance(targets, str) else tuple(targets))


def _save_memory(roles: Mapping[str, Role], hardware: DictConfig) -> None:
    """Let roles compute some things twice instead of keeping them, as the machine wants it."""
    for role in roles.values():
        if hardware.gradient_checkpointing:
            role.network.checkpoint_activations()
        if isinstance(role, TextRole):
            role.chunk_size = hardware.logprob_chunk_size


def _starting_point(path: Path) -> StartingPoint:
    manifest = read_manifest(path)
    if manifest is None:
        return StartingPoint(str(path))
    return StartingPoint(str(path), manifest.score_mean, manifest.score_std)
