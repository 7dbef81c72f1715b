"""From what a stage asks for to its roles: each owning a network, or all sharing one base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hydralign.errors import UserError
from hydralign.models.adapters import AdapterSet, LoraShape
from hydralign.models.attention import set_attention
from hydralign.models.heads import ScalarHead
from hydralign.models.loading import (
    is_scorer,
    load_adapter,
    load_language_model,
    load_scorer,
)
from hydralign.models.roles import AdapterNetwork, Network, Role, ScalarRole, TextRole


class Base(Protocol):
    """What roles start from that start from no artifact: a `BaseModel`, or a stand-in."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""

    def load(self, vocab_size: int, seed: int) -> PreTrainedModel:
        """Return the network, a new one at each call."""


@dataclass(frozen=True)
class RoleSpec:
    """What a stage asks of one role."""

    starts_from: str | None = None
    """The stage's input that the role is a copy of; None is the base model."""
    trained: bool = False
    scalar: bool = False
    """True gives a `ScalarRole`, False a `TextRole`."""
    new_head: bool = False
    """True lets a `ScalarRole` start from a language model, its head drawn at random."""


@dataclass(frozen=True)
class StartingPoint:
    """An artifact that a role may start from."""

    folder: str
    """Local folder, or a hub id."""
    score_mean: float = 0.0
    score_std: float = 1.0
    """Normalisation of the scores, if it holds a reward model."""
    score_range: Sequence[float] | None = None
    """Between which it was tested."""


def make_roles(
    base: Base,
    shape: LoraShape | None,
    specs: Mapping[str, RoleSpec],
    starts: Mapping[str, StartingPoint],
    *,
    vocab_size: int,
    seed: int,
) -> dict[str, Role]:
    """Build the roles that a stage asks for, in one of the two ways.

    Args:
        base: for roles that start from no artifact; under adapters, of all of them.
        shape: of the adapters; None gives each role a network of its own.
        specs: the roles wanted, by name.
        starts: the stage's inputs, by name.
        vocab_size: of the tokenizer.
        seed: of random weights.
    """
    if shape is None:
        return own_roles(base, specs, starts, vocab_size=vocab_size, seed=seed)
    return adapter_roles(base, shape, specs, starts, vocab_size=vocab_size, seed=seed)


def own_roles(
    base: Base,
    specs: Mapping[str, RoleSpec],
    starts: Mapping[str, StartingPoint],
    *,
    vocab_size: int,
    seed: int,
) -> dict[str, Role]:
    """Give every role a network of its own (full fine-tuning).

    Args:
        base: for roles that start from no artifact.
        specs: the roles wanted, by name.
        starts: the stage's inputs, by name.
        vocab_size: of the tokenizer.
        seed: of random weights.
    """
    roles: dict[str, Role] = {}
    for name, spec in specs.items():
        start = starts[spec.starts_from] if spec.starts_from else None
        if start is None:
            model, head_weight = base.load(vocab_size, seed), None
        elif is_scorer(start.folder):
            model, head_weight = load_scorer(start.folder, base.dtype)
        else:
            model, head_weight = load_language_model(start.folder, base.dtype), None
        network = Network(model, trained=spec.trained)
        roles[name] = _role(network, spec, start, head_weight, seed)
    return roles


def adapter_roles(
    base: Base,
    shape: LoraShape,
    specs: Mapping[str, RoleSpec],
    starts: Mapping[str, StartingPoint],
    *,
    vocab_size: int,
    seed: int,
) -> dict[str, Role]:
    """Put every role on one shared base, each as an adapter.

    Args:
        base: loaded once.
        shape: of every adapter.
        specs: the roles wanted, by name.
        starts: the stage's inputs, by name.
        vocab_size: of the tokenizer.
        seed: of random weights.

    Raises:
        UserError: if an artifact holds no adapter, or one that does not fit.
    """
    adapters = AdapterSet(base.load(vocab_size, seed), shape)
    roles: dict[str, Role] = {}
    for name, spec in specs.items():
        start = starts[spec.starts_from] if spec.starts_from else None
        weights, head_weight = load_adapter(Path(start.folder)) if start else (None, None)
        adapters.add(name, trained=spec.trained, weights=weights, seed=seed)
        roles[name] = _role(AdapterNetwork(adapters, name), spec, start, head_weight, seed)
    return roles


def suit_machine(
    roles: Mapping[str, Role],
    *,
    checkpoints: bool,
    logits_mb: float | None,
    attention: str | None,
    records_decoding: bool = False,
) -> None:
    """Let roles compute as suits the machine; what they compute stays the same.

    Args:
        roles: changed in place.
        checkpoints: whether activations within layers are computed anew in the backward pass.
        logits_mb: of logits in fp32 that may stand in memory at once; None is all.
        attention: how it is computed: `grouped`, or as transformers names it; None is its choice.
        records_decoding: whether a step of sampling is recorded on a GPU and replayed.

    Raises:
        UserError: if the networks cannot compute attention like that.
    """
    for role in roles.values():
        set_attention(role.network.language_model, attention)
        if checkpoints:
            role.network.checkpoint_activations()
        if isinstance(role, TextRole):
            role.records_decoding = records_decoding
        if isinstance(role, TextRole) and logits_mb is not None:
            vocab_size = role.network.language_model.config.get_text_config().vocab_size
            role.chunk_size = max(1, int(logits_mb * 1e6 / (4 * vocab_size)))


def _role(
    network: Network,
    spec: RoleSpec,
    start: StartingPoint | None,
    head_weight: Tensor | None,
    seed: int,
) -> Role:
    _disable_dropout(network.language_model)
    _check_kind(spec, start, head_weight)
    if not spec.scalar:
        return TextRole(network)
    hidden_size = network.language_model.config.get_text_config().hidden_size
    head = ScalarHead(hidden_size, torch.Generator().manual_seed(seed))
    if start is not None and head_weight is not None:
        head.weight.data.copy_(head_weight)
        head.mean.fill_(start.score_mean)
        head.std.fill_(start.score_std)
        head.seen = start.score_range
    return ScalarRole(network, head, trained=spec.trained)


def _check_kind(spec: RoleSpec, start: StartingPoint | None, head_weight: Tensor | None) -> None:
    if start is None:
        return
    if spec.scalar and not spec.new_head and head_weight is None:
        raise UserError(
            f"{start.folder} holds no reward model (no head). Name an artifact of stage=reward."
        )
    if not spec.scalar and head_weight is not None:
        raise UserError(f"{start.folder} holds a reward model; a language model is wanted.")


def _disable_dropout(model: PreTrainedModel) -> None:
    # Policy, old policy and reference must be the same function of their weights. Some networks
    # keep rates as attributes of modules, some read them from their config at each pass.
    for holder in (*model.modules(), model.config, model.config.get_text_config()):
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float):
                setattr(holder, name, 0.0)
        if isinstance(holder, torch.nn.Dropout):
            holder.p = 0.0
