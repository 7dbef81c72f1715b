"""How often what people preferred is ranked first."""

from math import isnan
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


def pair_accuracies(scores: Tensor, batch: ComparisonBatch) -> Tensor:
    """Return 1, 0 or one half for each of the pairs (decided,) that are no ties.

    Args:
        scores: (n,) of the batch's rows.
        batch: says which pairs people ranked.
    """
    decided = batch.target != TIE
    first, second = scores[batch.first[decided]], scores[batch.second[decided]]
    return pairwise_accuracy(first, second, batch.target[decided])


class PairRows:
    """Collects the scores and pairs of held-out comparisons, row by row."""

    def __init__(self, unit: str) -> None:
        """Start empty.

        Args:
            unit: of the scores.
        """
        self.unit = unit
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("scores", "lengths", "preferred", "other", "prompts", "gaps")
        }

    def add(self, scores: Tensor, batch: ComparisonBatch) -> None:
        """Add a batch.

        Args:
            scores: (n,) of its rows.
            batch: of whole comparisons.
        """
        rows, prompts = len(self._columns["scores"]), self._columns["prompts"]
        before = prompts[-1] + 1 if prompts else 0
        decided = batch.target != TIE
        won, first, second = (x[decided] for x in (batch.target == 1, batch.first, batch.second))
        for name, values in {
            "scores": scores.float(),
            "lengths": batch.sequences.response_mask.sum(-1),
            "preferred": first.where(won, second) + rows,
            "other": second.where(won, first) + rows,
            "prompts": batch.prompt_index[decided] + before,
            "gaps": batch.gap[decided],
        }.items():
            self._columns[name] += values.tolist()

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
        self._of_prompts: list[Tensor] = []

    def add(self, scores: Tensor, batch: ComparisonBatch) -> None:
        """Add a batch.

        Args:
            scores: (n,) of its rows.
            batch: of whole comparisons.
        """
        accuracies = pair_accuracies(scores, batch)
        prompts = batch.prompt_index[batch.target != TIE]
        self._of_prompts += [accuracies[prompts == prompt] for prompt in prompts.unique()]

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
        accuracy = torch.cat(self._of_prompts).mean().item()
        self._of_prompts = []
        return accuracy

    def figures(self, seed: int) -> dict[str, float]:
        """Return the mean with its 95 % interval over prompts, as pairs of one prompt are kin.

        Args:
            seed: of the resampling.
        """
        of_prompts = self._of_prompts
        accuracy = self.accuracy()
        low, high = bootstrap_interval(of_prompts, seed=seed)
        pairs = float(sum(len(accuracies) for accuracies in of_prompts))
        return {
            "pair_accuracy": accuracy,
            "pair_accuracy_low": low,
            "pair_accuracy_high": high,
            "pairs": pairs,
        }
