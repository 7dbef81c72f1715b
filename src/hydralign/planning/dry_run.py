"""The passes of a stage, run dry: real code on fake tensors, with all that lives counted."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from hydralign.models.assembly import suit_machine
from hydralign.models.roles import Role, ScalarRole, TextRole
from hydralign.planning.fake_roles import book_weights_
from hydralign.planning.tracker import MemoryTracker
from hydralign.rl.packing import PackedRows, RowGroup
from hydralign.rl.sequences import Sequences

PHASE_KINDS = ("sample", "score", "train")

OPTIMIZER_BYTES = {"adamw": 8.0, "paged_adamw": 8.0}
"""Bytes of Adam's averages for each number that trains."""

OPTIMIZER_BYTES |= {"adamw_8bit": 2 + 8 / 256, "paged_adamw_8bit": 2 + 8 / 256}
"""In 8 bits each block of 256 has a scale."""

PAGED_FROM = 100_000
"""Numbers from which on bitsandbytes pages a tensor: moves it away while the card is full."""


@dataclass(frozen=True)
class Workload:
    """How large the passes of a stage are."""

    prompt_tokens: int
    """Of the longest prompt."""
    response_tokens: int
    """Of the longest response that is learned from."""
    sampled_tokens: int
    """Of the longest response that is sampled."""
    rows_per_example: int
    """Which are never parted."""
    train_rows: int
    """In a pass with gradients."""
    score_rows: int
    """In a pass without."""
    generation_rows: int
    """Responses sampled at a time."""
    accumulates: bool
    """Whether an optimizer step has several passes with gradients."""
    mixed: bool
    """Whether products are computed in bfloat16 whatever the weights are."""
    checkpoints: bool
    """Whether activations within layers are computed anew in the backward pass."""
    logits_mb: float | None
    """Of logits that stand in memory at once; None is all."""
    attention: str | None
    """How it is computed: `grouped`, or as transformers names it; None is its choice."""
    broken_below: int
    """Bytes of a block below which main memory loses as much again; 0 on a card."""
    optimizer: str
    """How Adam's averages are stored: a key of OPTIMIZER_BYTES."""

    def sequences(self, rows: int) -> Sequences:
        """Return a batch of the longest sequences, without padding."""
        b, p, r = rows, self.prompt_tokens, self.response_tokens
        ids = torch.zeros(b, p + r, dtype=torch.long)
        mask = torch.ones(b, p + r, dtype=torch.bool)
        return FullSequences(ids, mask, mask[:, p:].clone())


class FullSequences(Sequences):
    """Sequences without padding, which need not be looked at to be grouped or counted."""

    @cached_property
    def packed(self) -> PackedRows:
        """Every place: the rows are alike."""
        b, t = self.sequence_ids.shape
        every = torch.arange(b * t)
        return PackedRows(every, torch.arange(t).repeat(b), (RowGroup((b, t), every),))

    @cached_property
    def before_counted(self) -> Tensor:
        """Every token but the last of each row, from the prompt's last one on."""
        b, t = self.sequence_ids.shape
        return torch.arange(b * t).view(b, t)[:, self.prompt_length - 1 : -1].flatten()

    def counted(self, tensor: Tensor) -> Tensor:
        """Return (b * r, ...): every response token counts.

        Args:
            tensor: (b, r, ...)
        """
        return tensor.flatten(0, 1).clone()


@dataclass(frozen=True)
class Phase:
    """One kind of pass, and what was alive when it took most."""

    name: str
    """Such as `train policy`."""
    bytes: Counter[str]
    """By kind: one of those that the plan lists."""

    @property
    def kind(self) -> str:
        """One of PHASE_KINDS."""
        return self.name.partition(":")[0]

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.bytes.total()


def dry_run(
    roles: Mapping[str, Role],
    work: Workload,
    vocab_size: int,
    kinds: Collection[str] = PHASE_KINDS,
) -> list[Phase]:
    """Run each kind of pass that a stage makes once.

    Args:
        roles: of the stage, on the meta device; they are of no use afterwards.
        work: how large the passes are.
        vocab_size: of the logits.
        kinds: of passes to look at.
    """
    mixed = torch.autocast("cpu", torch.bfloat16) if work.mixed else nullcontext()
    tracker = MemoryTracker(vocab_size, work.broken_below)
    suit_machine(
        roles,
        checkpoints=work.checkpoints,
        logits_mb=work.logits_mb,
        attention=work.attention,
    )
    with tracker, mixed:
        book_weights_(roles.values(), tracker)
        phases = [*_phases(roles, work, tracker, kinds)]
    for phase in phases:  # from the second optimizer step on they are always there
        phase.bytes["optimizer"] = _averages(roles, work.optimizer)
    return phases


def _averages(roles: Mapping[str, Role], optimizer: str) -> int:
    """Return the bytes of Adam's averages that cannot be moved away."""
    sizes = [p.numel() for role in roles.values() for p in role.trained_parameters()]
    moved = PAGED_FROM if optimizer.startswith("paged") else inf
    return int(sum(size for size in sizes if size < moved) * OPTIMIZER_BYTES[optimizer])


def _phases(
    roles: Mapping[str, Role], work: Workload, tracker: MemoryTracker, kinds: Collection[str]
) -> Iterator[Phase]:
    # Of roles that are alike only the first is looked at: of those that give numbers the value
    # model, which takes more.
    alike = {type(role): (name, role) for name, role in reversed(list(roles.items()))}
    for writer in [role for _, role in alike.values() if isinstance(role, TextRole)]:
        for name in _sample(writer, work, tracker) if "sample" in kinds else ():
            yield Phase(name, tracker.at_peak)
    for name, role in alike.values() if "score" in kinds else ():
        _score(name, role, work, tracker)
        yield Phase(f"score: {name}", tracker.at_peak)
    for name, role in roles.items() if "train" in kinds else ():
        if role.trained_parameters():
            _train(name, role, work, tracker)
            yield Phase(f"train: {name}", tracker.at_peak)


class _BookedCache(DynamicCache):
    """A cache whose keys and values are known as such."""

    tracker: MemoryTracker

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Extend the keys and values of a layer."""
        both = super().update(*args, **kwargs)
        for tensor in both:
            self.tracker.rename(tensor, "KV cache")
        return both


@torch.no_grad()
def _sample(role: TextRole, work: Workload, tracker: MemoryTracker) -> Iterator[str]:
    """Read the prompts, then write the last token of the longest responses."""
    tracker.restart()
    b, p, r = work.generation_rows, work.prompt_tokens, work.sampled_tokens
    t = p + r
    cache = _BookedCache()
    cache.tracker = tracker
    ids = torch.zeros(b, t, dtype=torch.long)
    mask = torch.ones(b, t, dtype=torch.bool)
    positions = torch.arange(t).expand(b, -1)
    _draw(role.next_token_logits(ids[:, :p], mask[:, :p], positions[:, :p], cache))
    yield "sample: read the prompts"
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        n, heads, _, size = layer.keys.shape
        written = layer.keys.new_empty(n, heads, max(r - 2, 0), size)
        cache.update(written, written, index)
    del written
    tracker.restart()
    _draw(role.next_token_logits(ids[:, -1:], mask[:, 1:], positions[:, -1:], cache))
    yield "sample: write the last tokens"


def _draw(logits: Tensor) -> Tensor:
    return logits.float().softmax(-1).cumsum(-1, dtype=torch.float64)


@torch.no_grad()
def _score(name: str, role: Role, work: Workload, tracker: MemoryTracker) -> None:
    """Look at responses without learning from them."""
    tracker.restart()
    sequences = work.sequences(work.score_rows)
    if isinstance(role, TextRole):
        role.stats(sequences)
    else:
        _numbers_of(name, role, sequences)


def _numbers_of(name: str, role: ScalarRole, sequences: Sequences) -> Tensor:
    """Ask of a role what stages ask of it: the value model for values, others for scores."""
    return role.values(sequences) if name == "value_model" else role.scores(sequences)


def _train(name: str, role: Role, work: Workload, tracker: MemoryTracker) -> None:
    """Take a micro-batch's gradients, and drop them."""
    sequences, parameters = work.sequences(work.train_rows), role.trained_parameters()
    with tracker.making("gradients"):
        for parameter in parameters if work.accumulates else ():
            parameter.grad = torch.empty_like(parameter)  # of the micro-batch before
    tracker.restart()
    hooks = [p.register_post_accumulate_grad_hook(tracker.rename_gradient) for p in parameters]
    told = role(sequences) if isinstance(role, TextRole) else _numbers_of(name, role, sequences)
    told.sum().backward()
    for hook in hooks:
        hook.remove()
    for parameter in parameters:
        parameter.grad = None
