"""How often what people preferred is ranked first."""

import torch
from torch import Tensor

from hydralign.data.collate import ComparisonBatch
from hydralign.errors import UserError
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
