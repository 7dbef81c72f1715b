"""What a stage is given besides its settings and roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydralign.data.collate import PromptBatch
from hydralign.micro_batches import MicroBatches
from hydralign.models.codec import Codec
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.ranks import Ranks
from hydralign.rewards.scorers import (
    MODEL_ALONE,
    Part,
    RewardModelScorer,
    RuleScorer,
    WeightedScorer,
)
from hydralign.rollout.sampling import Sampling, Scorer
from hydralign.stages.evaluation import HeadToHead
from hydralign.stages.guards import Guard


@dataclass(frozen=True)
class StageContext:
    """The machine's limits, the text side of the model, and data beyond the stage's own batches."""

    codec: Codec
    training: MicroBatches
    """Examples per forward pass with gradients."""
    scoring: MicroBatches
    """Rows per forward pass without gradients."""
    generation: MicroBatches
    """Rows sampled at a time."""
    optimizer: str
    """How Adam's averages are stored: a kind that `make_optimizer` knows."""
    max_response_tokens: int
    """Length limit of sampled responses."""
    gold: RuleScorer | None
    """A score that no stage trains on, if the data set names one."""
    side_prompts: Sequence[PromptBatch]
    """Training prompts for a stage whose own batches hold none."""
    seed: int
    guard: Guard = field(default_factory=Guard)
    """Decides on numbers that are not finite."""
    ranks: Ranks = Ranks()
    """The processes that share the work."""
    rewards: Sequence[Part] = MODEL_ALONE
    """What scores responses."""

    @property
    def micro_batches(self) -> tuple[MicroBatches, ...]:
        """What is cut: training, scoring, generation."""
        return self.training, self.scoring, self.generation

    def state_dict(self) -> dict[str, Any]:
        """Return what the run has learned about its machine and its data."""
        sizes = [micro_batches.state() for micro_batches in self.micro_batches]
        return {"sizes": sizes, "skipped": self.guard.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was learned."""
        self.adopt(state["sizes"])
        self.guard.skipped = state["skipped"]

    def adopt(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Go on with the sizes that another process, or the run before a stop, found to fit."""
        for micro_batches, size in zip(self.micro_batches, sizes, strict=True):
            micro_batches.adopt(size)

    def scorer(self, reward_model: ScalarRole | None) -> WeightedScorer:
        """Return what scores responses: the rewards of the run, added up.

        Args:
            reward_model: for the one that asks it; None where there is no such one.
        """
        return WeightedScorer(
            [(part.name, part.weight, self._scorer_of(part, reward_model)) for part in self.rewards]
        )

    def _scorer_of(self, part: Part, reward_model: ScalarRole | None) -> Scorer:
        if part.rule is not None:
            return RuleScorer(part.rule, part.name, self.ranks)
        assert reward_model is not None
        return RewardModelScorer(reward_model, self.scoring, self.ranks)

    def head_to_head(
        self, before: TextRole, after: TextRole, scorer: Scorer, sampling: Sampling, seed: int
    ) -> HeadToHead:
        """Return two policies that are to answer the same prompts.

        Args:
            before: the reference.
            after: the policy.
            scorer: judges both.
            sampling: of both.
            seed: of the draws.
        """
        return HeadToHead(
            before=before,
            after=after,
            scorer=scorer,
            gold=self.gold,
            codec=self.codec,
            sampling=sampling,
            micro_batches=self.scoring,
            seed=seed,
        )

    def sampling(self, temperature: float = 1.0) -> Sampling:
        """Return how responses are drawn at a temperature."""
        return Sampling(temperature, self.max_response_tokens, self.generation, self.ranks)
