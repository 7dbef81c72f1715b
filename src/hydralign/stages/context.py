"""What a stage is given besides its settings and roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydralign.data.collate import PromptBatch
from hydralign.micro_batches import MicroBatches
from hydralign.models.codec import Codec
from hydralign.models.roles import ScalarRole
from hydralign.ranks import Ranks
from hydralign.rewards.scorers import RewardModelScorer, RuleScorer
from hydralign.rollout.sampling import Sampling
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

    def state_dict(self) -> dict[str, int]:
        """Return what the run has learned about its machine and its data."""
        return {name: self._micro_batches[name].size for name in self._micro_batches} | {
            "skipped": self.guard.skipped
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with what was learned, unless smaller sizes are asked for now."""
        for name, micro_batches in self._micro_batches.items():
            micro_batches.size = min(micro_batches.size, state[name])
        self.guard.skipped = state["skipped"]

    @property
    def _micro_batches(self) -> dict[str, MicroBatches]:
        return {name: getattr(self, name) for name in ("training", "scoring", "generation")}

    def scorer(self, reward_model: ScalarRole) -> RewardModelScorer:
        """Return a scorer that asks a reward model."""
        return RewardModelScorer(reward_model, self.scoring, self.ranks)

    def sampling(self, temperature: float = 1.0) -> Sampling:
        """Return how responses are drawn at a temperature."""
        return Sampling(temperature, self.max_response_tokens, self.generation, self.ranks)
