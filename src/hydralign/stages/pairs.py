"""How often what people preferred is ranked first."""

from collections import defaultdict
from math import isnan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hydralign.data.collate import ComparisonBatch
from hydralign.errors import UserError
from hydralign.outcomes import PairOutcomes
from hydralign.rl.preference import pairwise_accuracy
from hydralign.stages.bootstrap import bootstrap_interval

TIE = 0.5
"""Target of a pair that people ranked equal; it is neither right nor wrong."""

EMPTY = 1
"""Tokens of a prompt without a text: it begins, and nothing else."""


def pair_accuracies(scores: Tensor, batch: ComparisonBatch) -> Tensor:
    """Return 1, 0 or one half for each of the pairs (decided,) that are no ties.

    Args:
        scores: (n,) of the batch's rows.
        batch: says which pairs people ranked.
    """
    decided = batch.target != TIE
    first, second = scores[batch.first[decided]], scores[batch.second[decided]]
    return pairwise_accuracy(first, second, batch.target[decided])


class PromptNumbers:
    """Numbers prompts as they come, and knows one again by its tokens.

    Several people may rank the responses to a prompt, and a ranking may be cut into pairs. Where
    prompts are empty, as those of whole sentences, each comparison counts as a prompt of its own.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._batches = 0

    def of_pairs(self, batch: ComparisonBatch) -> list[int]:
        """Return the prompt's number for each of the pairs (decided,) that are no ties."""
        decided, p = batch.target != TIE, batch.sequences.prompt_length
        rows, self._batches = batch.first[decided], self._batches + 1
        ids = batch.sequences.sequence_ids[rows, :p].cpu()
        real = batch.sequences.attention_mask[rows, :p].cpu()
        found = []
        for prompt, kept, index in zip(
            ids, real, batch.prompt_index[decided].tolist(), strict=True
        ):
            tokens = prompt[kept].tolist()
            key = ("tokens", *tokens) if len(tokens) > EMPTY else (self._batches, index)
            found.append(self._numbers.setdefault(key, len(self._numbers)))
        return found


class PairRows:
    """Collects the scores and pairs of held-out comparisons, row by row."""

    def __init__(self, unit: str) -> None:
        """Start empty.

        Args:
            unit: of the scores.
        """
        self.unit = unit
        self._numbers = PromptNumbers()
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("scores", "lengths", "preferred", "other", "prompts", "gaps")
        }

    def add(self, scores: Tensor, batch: ComparisonBatch) -> None:
        """Add a batch.

        Args:
            scores: (n,) of its rows.
            batch: of whole comparisons.
        """
        rows = len(self._columns["scores"])
        decided = batch.target != TIE
        won, first, second = (x[decided] for x in (batch.target == 1, batch.first, batch.second))
        for name, values in {
            "scores": scores.float(),
            "lengths": batch.sequences.response_mask.sum(-1),
            "preferred": first.where(won, second) + rows,
            "other": second.where(won, first) + rows,
            "gaps": batch.gap[decided],
        }.items():
            self._columns[name] += values.tolist()
        self._columns["prompts"] += self._numbers.of_pairs(batch)

    def outcomes(self, log_odds: float | None) -> PairOutcomes:
        """Return what was collected.

        Args:
            log_odds: of one being preferred, for each unit that it scores above the other.
        """
        gaps = [None if isnan(gap) else gap for gap in self._columns["gaps"]]
        return PairOutcomes(self.unit, log_odds, **{**self._columns, "gaps": gaps})


class HeldOutPairs:
    """Collects the accuracy on held-out comparisons, prompt by prompt."""

    def __init__(self) -> None:
        """Start empty."""
        self._numbers = PromptNumbers()
        self._of_prompts: dict[int, list[float]] = defaultdict(list)

    def add(self, scores: Tensor, batch: ComparisonBatch) -> None:
        """Add a batch.

        Args:
            scores: (n,) of its rows.
            batch: of whole comparisons.
        """
        accuracies = pair_accuracies(scores, batch).tolist()
        for prompt, accuracy in zip(self._numbers.of_pairs(batch), accuracies, strict=True):
            self._of_prompts[prompt].append(accuracy)

    def accuracy(self) -> float:
        """Return the mean over all pairs, and start anew.

        Raises:
            UserError: if all pairs are ties.
        """
        if not self._of_prompts:
            raise UserError(
                "No held-out comparison has a preferred response: all its pairs are ties. Raise "
                "data.splits.validation and data.splits.test, or bring more records."
            )
        accuracies = [each for prompt in self._of_prompts.values() for each in prompt]
        self._of_prompts.clear()
        return fmean(accuracies)

    def figures(self, seed: int) -> dict[str, float]:
        """Return the mean with its 95 % interval over prompts, as pairs of one prompt are kin.

        Args:
            seed: of the resampling.
        """
        of_prompts = [torch.tensor(accuracies) for accuracies in self._of_prompts.values()]
        accuracy = self.accuracy()
        low, high = bootstrap_interval(of_prompts, seed=seed)
        pairs = float(sum(len(accuracies) for accuracies in of_prompts))
        return {
            "pair_accuracy": accuracy,
            "pair_accuracy_low": low,
            "pair_accuracy_high": high,
            "pairs": pairs,
        }
