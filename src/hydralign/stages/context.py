"""What a stage is given besides its settings and roles."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydralign.data.collate import PromptBatch
from hydralign.models.codec import Codec
from hydralign.models.roles import ScalarRole
from hydralign.ranks import Ranks
from hydralign.rewards.scorers import RewardModelScorer, RuleScorer
from hydralign.rollout.sampling import Sampling


@dataclass(frozen=True)
class StageContext:
    """The machine's limits, the text side of the model, and data beyond the stage's own batches."""

    codec: Codec
    train_micro_batch_size: int
    """Rows per forward pass with gradients."""
    score_micro_batch_size: int
    """Rows per forward pass without gradients."""
    generation_batch_size: int
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
    ranks: Ranks = Ranks()
    """The processes that share the work."""

    def scorer(self, reward_model: ScalarRole) -> RewardModelScorer:
        """Return a scorer that asks a reward model."""
        return RewardModelScorer(reward_model, self.score_micro_batch_size, self.ranks)

    def sampling(self, temperature: float = 1.0) -> Sampling:
        """Return how responses are drawn at a temperature."""
        return Sampling(
            temperature, self.max_response_tokens, self.generation_batch_size, self.ranks
        )
