"""What scores a response: a reward model, a rule over texts, or a weighted sum of several."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hydralign.errors import UserError, is_out_of_memory
from hydralign.micro_batches import MicroBatches
from hydralign.models.roles import ScalarRole
from hydralign.ranks import Ranks
from hydralign.rollout.sampling import Responses, Scorer

Rule = Callable[[Sequence[str], Sequence[str], Sequence[str | None]], Sequence[float]]
"""Scores b prompts with their b responses, as text, given the b answers of the data set."""

REWARD_MODEL = "reward_model"
"""The name under which a config asks for it."""


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

    def __init__(self, rule: Rule, name: str = "rule", ranks: Ranks | None = None) -> None:
        """Keep the rule.

        Args:
            rule: a function of prompts, responses and answers.
            name: of it, for messages.
            ranks: the processes of the run; all go by what the first one's rule says.
        """
        self.rule = rule
        self.name = name
        self.ranks = ranks or Ranks()

    def __call__(self, responses: Responses) -> Tensor:
        """Return the (b,) scores of b responses.

        Raises:
            UserError: if the rule raises, or returns anything but a number for each. It names the
                rule and the row.
        """
        given = (responses.prompts, responses.texts, responses.answers)
        try:
            said = self.rule(*given)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UserError(self._whose_fault(error, *given)) from error
        if not isinstance(said, Iterable):
            raise UserError(f"The scorer {self.name} returned {said!r}, wanted a list of numbers.")
        scores = list(said)
        if len(scores) != len(responses.texts):
            raise UserError(
                f"The scorer {self.name} returned {len(scores)} scores for "
                f"{len(responses.texts)} responses. It must return one for each."
            )
        for row, score in enumerate(scores):
            if isinstance(score, str) or not hasattr(score, "__float__"):
                what = f"gave {score!r}, which is no number, to"
                raise UserError(f"The scorer {self.name} {what} {_row(row, *given)}")
        numbers = self.ranks.gather([float(score) for score in scores])[0]
        return torch.tensor(numbers, device=responses.sequences.sequence_ids.device)

    def _whose_fault(self, error: Exception, *given: Sequence[Any]) -> str:
        """Name the first row on which the rule raises by itself."""
        said = f"The scorer {self.name} raised {type(error).__name__}: {error}\n"
        for row in range(len(given[0])):
            try:
                self.rule(*([column[row]] for column in given))
            except Exception:
                return f"{said}It was given {_row(row, *given)}"
        return f"{said}Each of the {len(given[0])} rows by itself it can score."


def _row(row: int, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[Any]) -> str:
    return (
        f"row {row}:\n  prompt:   {prompts[row]!r}\n  response: {responses[row]!r}\n"
        f"  answer:   {answers[row]!r}"
    )


@dataclass(frozen=True)
class Part:
    """One scorer of a sum."""

    name: str
    weight: float
    rule: Rule | None
    """None is the reward model."""


MODEL_ALONE = (Part(REWARD_MODEL, 1.0, None),)


class WeightedScorer:
    """The weighted sum of some scores."""

    def __init__(self, scorers: Sequence[tuple[str, float, Scorer]]) -> None:
        """Keep the scorers.

        Args:
            scorers: names, weights and what scores.
        """
        self.scorers = scorers
        self.means: dict[str, float] = {}
        """Of each scorer, its mean over the latest responses."""

    def __call__(self, responses: Responses) -> Tensor:
        """Return the (b,) sums of b responses."""
        scores = [(name, weight, scorer(responses)) for name, weight, scorer in self.scorers]
        self.means = {name: score.mean().item() for name, _, score in scores}
        return torch.stack([weight * score for _, weight, score in scores]).sum(0)

    @property
    def seen(self) -> Sequence[float] | None:
        """Range of scores that the reward model was tested on, if nothing else scores."""
        (_, weight, scorer), *more = self.scorers
        if more or weight != 1 or not isinstance(scorer, RewardModelScorer):
            return None
        return scorer.reward_model.head.seen
