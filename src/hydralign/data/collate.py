"""From examples to batches of tensors.

Each function takes the examples of one micro-batch, and those of the whole optimizer step that it
is part of: the loss is a sum over the micro-batch, divided by what is counted over the step. So the
way a step is cut into micro-batches changes nothing but memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from hydralign.data.examples import ComparisonExample, DemonstrationExample, PromptExample
from hydralign.rl.sequences import Sequences, pad_sequences


@dataclass(frozen=True)
class DemonstrationBatch:
    """Demonstrations, one to a row."""

    sequences: Sequences
    """b prompts with their responses."""
    response_tokens: int
    """Counted response tokens of the whole optimizer step: the denominator of the loss."""

    def to(self, device: torch.device | str) -> "DemonstrationBatch":
        """Return the same batch on another device."""
        return replace(self, sequences=self.sequences.to(device))


@dataclass(frozen=True)
class ComparisonBatch:
    """Comparisons, one row to each of their n responses; a prompt's rows are never parted."""

    sequences: Sequences
    """n prompts with one response each."""
    first: Tensor
    """(pairs,) row of one response."""
    second: Tensor
    """(pairs,) row of the other response."""
    target: Tensor
    """(pairs,) probability that the first is preferred: 1, or 0.5 for a tie."""
    weight: Tensor
    """(pairs,) 1 / number of pairs of the same prompt, so that each prompt counts once."""
    prompt_index: Tensor
    """(pairs,) which comparison of this batch the pair belongs to."""
    gap: Tensor
    """(pairs,) how far apart people rated the two; NaN where they rated nothing."""
    prompts: int
    """Comparisons of the whole optimizer step: the denominator of the loss."""

    def to(self, device: torch.device | str) -> "ComparisonBatch":
        """Return the same batch on another device."""
        return ComparisonBatch(
            sequences=self.sequences.to(device),
            first=self.first.to(device),
            second=self.second.to(device),
            target=self.target.to(device),
            weight=self.weight.to(device),
            prompt_index=self.prompt_index.to(device),
            gap=self.gap.to(device),
            prompts=self.prompts,
        )


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to respond to."""

    prompt_ids: Tensor
    """(b, p) padded on the left."""
    attention_mask: Tensor
    """(b, p) bool, True = real token."""
    prompts: tuple[str, ...]
    """b prompts as text."""
    answers: tuple[str | None, ...]
    """b reference answers, where there are any."""

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def to(self, device: torch.device | str) -> "PromptBatch":
        """Return the same batch on another device."""
        return replace(
            self,
            prompt_ids=self.prompt_ids.to(device),
            attention_mask=self.attention_mask.to(device),
        )


def collate_demonstrations(
    examples: Sequence[DemonstrationExample], step: Sequence[DemonstrationExample], *, pad_id: int
) -> DemonstrationBatch:
    """Lay out the demonstrations of a micro-batch.

    Args:
        examples: of the micro-batch.
        step: all examples of the optimizer step.
        pad_id: fills padding.
    """
    prompts = [example.prompt_ids for example in examples]
    responses = [example.response_ids for example in examples]
    return DemonstrationBatch(
        sequences=pad_sequences(prompts, responses, pad_id),
        response_tokens=sum(len(example.response_ids) for example in step),
    )


def collate_comparisons(
    examples: Sequence[ComparisonExample], step: Sequence[ComparisonExample], *, pad_id: int
) -> ComparisonBatch:
    """Lay out the comparisons of a micro-batch: all responses of the first, then the next.

    Args:
        examples: of the micro-batch.
        step: all examples of the optimizer step.
        pad_id: fills padding.
    """
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    first, second, target, weight, prompt_index, gap = [], [], [], [], [], []
    for index, example in enumerate(examples):
        start = len(responses)
        prompts += [example.prompt_ids] * len(example.responses)
        responses += example.responses
        first += [start + pair.first for pair in example.pairs]
        second += [start + pair.second for pair in example.pairs]
        target += [pair.target for pair in example.pairs]
        weight += [1 / len(example.pairs)] * len(example.pairs)
        prompt_index += [index] * len(example.pairs)
        gap += [nan if pair.gap is None else pair.gap for pair in example.pairs]
    return ComparisonBatch(
        sequences=pad_sequences(prompts, responses, pad_id),
        first=torch.tensor(first),
        second=torch.tensor(second),
        target=torch.tensor(target),
        weight=torch.tensor(weight),
        prompt_index=torch.tensor(prompt_index),
        gap=torch.tensor(gap),
        prompts=len(step),
    )


def collate_prompts(
    examples: Sequence[PromptExample], step: Sequence[PromptExample], *, pad_id: int
) -> PromptBatch:
    """Lay out the prompts of a micro-batch.

    Args:
        examples: of the micro-batch.
        step: all examples of the optimizer step; prompts have no loss, so nothing is counted.
        pad_id: fills padding.
    """
    ids = [example.prompt_ids for example in examples]
    sequences = pad_sequences(ids, [[] for _ in ids], pad_id)
    p = sequences.prompt_length
    return PromptBatch(
        prompt_ids=sequences.sequence_ids[:, :p],
        attention_mask=sequences.attention_mask[:, :p],
        prompts=tuple(example.text for example in examples),
        answers=tuple(example.answer for example in examples),
    )
