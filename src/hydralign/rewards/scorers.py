"""The two kinds of scorer: a reward model, and a rule over texts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hydralign.micro_batches import MicroBatches
from hydralign.models.roles import ScalarRole
from hydralign.ranks import Ranks
from hydralign.rollout.sampling import Responses

Rule = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Scores b prompts with their b responses, both as text."""


class RewardModelScorer:
    """Scores responses by a reward model, on the very tokens that were sampled."""

    def __init__(
        self, reward_model: ScalarRole, micro_batches: MicroBatches, ranks: Ranks | None = None
    ) -> None:
        """Keep the model, without owning it.

        Args:
            reward_model: frozen.
            micro_batches: rows per forward pass.
            ranks: the processes that share the rows.
        """
        self.ranks = ranks or Ranks()
        self.reward_model = reward_model
        self.micro_batches = micro_batches

    @torch.no_grad()
    def __call__(self, responses: Responses) -> Tensor:
        """Return the (b,) normalised scores of b responses."""
        return self.ranks.map(self.reward_model.scores, responses.sequences, self.micro_batches)


class RuleScorer:
    """Scores responses by a rule that reads their texts."""

    def __init__(self, rule: Rule) -> None:
        """Keep the rule."""
        self.rule = rule

    def __call__(self, responses: Responses) -> Tensor:
        """Return the (b,) scores of b responses."""
        return torch.tensor(self.rule(responses.prompts, responses.texts), dtype=torch.float32)
