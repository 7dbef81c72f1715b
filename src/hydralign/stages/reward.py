"""Reward model: learn from rankings which response people prefer."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from hydralign.data.collate import ComparisonBatch
from hydralign.data.loaders import Step
from hydralign.errors import DIVERGED, BadNumbers
from hydralign.models.assembly import RoleSpec
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.outcomes import PairOutcomes
from hydralign.rl.preference import centering_penalty, pairwise_loss
from hydralign.rollout.sampling import sample_responses
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.pairs import TIE, HeldOutPairs, PairRows, pair_accuracies
from hydralign.stages.supervised import SupervisedStage


@dataclass
class RewardSettings:
    """Hyperparameters of `stage=reward`."""

    policy: str | None
    """Artifact of `stage=sft` to start from; the newest that fits, if null."""
    learning_rate: float
    """Peak."""
    steps: int
    """Optimizer steps."""
    batch_size: int
    """Comparisons (prompts with all their responses) per optimizer step."""
    schedule: str
    warmup_steps: int
    """Optimizer steps."""
    weight_decay: float
    max_grad_norm: float
    centering_coef: float
    """Weight of the penalty that holds the mean score near 0."""


class Reward(SupervisedStage):
    """Bradley-Terry on all pairs of every ranking, Ouyang et al. 2022 (arXiv 2203.02155)."""

    settings = RewardSettings
    records = ("comparison", "prompt")
    inputs = {"policy": "sft"}
    roles = {
        "reward_model": RoleSpec("policy", trained=True, scalar=True, new_head=True),
        "policy": RoleSpec("policy"),
    }
    product = "reward_model"
    headline = "reward/pair_accuracy"

    def __init__(
        self,
        settings: RewardSettings,
        context: StageContext,
        *,
        reward_model: ScalarRole,
        policy: TextRole,
    ) -> None:
        """Put the stage together.

        Args:
            settings: hyperparameters.
            context: machine and data.
            reward_model: trains; starts as the SFT policy with a new head.
            policy: the SFT policy, whose samples set the scale of the scores.
        """
        super().__init__(settings, context)
        self.reward_model = reward_model
        self.policy = policy
        self.scorer = context.scorer(reward_model)
        self._held_out = HeldOutPairs()
        self._rows = PairRows("deviations of the SFT policy's scores")

    def passes(self, step: Step, size: int, averages: Averages) -> None:
        """Go through a step, some examples at a time."""
        for batch in step.micro_batches(size):
            scores = self.reward_model.scores(batch.sequences)
            first, second = scores[batch.first], scores[batch.second]
            loss = pairwise_loss(first, second, target=batch.target)
            averages.add("reward/loss", loss)
            loss = loss + self.options.centering_coef * centering_penalty(first, second)
            # Mean over prompts of the mean over each prompt's pairs, over the whole step.
            self.manual_backward((batch.weight * loss).sum() / batch.prompts)
            averages.add("reward/accuracy", pair_accuracies(scores, batch))
            averages.add("reward/margin", first - second, batch.target != TIE)
            averages.add("reward/raw_score", scores)

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Fix the scale: the SFT policy's own responses score 0 on average, with deviation 1."""
        context = self.context
        generator = torch.Generator(self.device).manual_seed(context.seed)
        silent = not context.ranks.first
        scores = [
            self.scorer(
                sample_responses(
                    self.policy, prompts.to(self.device), context.codec, self.sampling, generator
                )
            )
            for prompts in tqdm(
                context.side_prompts, "normalising the scores", delay=2, disable=silent
            )
        ]
        together = torch.cat(scores)
        if not torch.isfinite(together).all():
            raise BadNumbers(
                f"Scores that are no finite numbers. {DIVERGED}", {"scores": together.tolist()}
            )
        self.reward_model.head.normalise_on(together)
        self.figures["reward/normalisation_mean"] = self.reward_model.head.mean.item()
        self.figures["reward/normalisation_std"] = self.reward_model.head.std.item()

    def validation_step(self, batch: ComparisonBatch, index: int) -> None:
        """Add held-out comparisons."""
        self._add(batch)

    def _add(self, batch: ComparisonBatch) -> Tensor:
        scores = self.context.ranks.map(
            self.reward_model.scores, batch.sequences, self.context.scoring
        )
        self._held_out.add(scores, batch)
        return scores

    def on_validation_epoch_end(self) -> None:
        """Log the share of held-out pairs ranked as people ranked them."""
        self.figures["reward/val_accuracy"] = self._held_out.accuracy()
        self.log("reward/val_accuracy", self.figures["reward/val_accuracy"], prog_bar=True)

    def test_step(self, batch: ComparisonBatch, index: int) -> None:
        """Add comparisons of the test split, and note the range of their scores."""
        scores = self._add(batch)
        self.reward_model.head.saw(scores)
        self._rows.add(scores, batch)

    def on_test_epoch_end(self) -> None:
        """Report the accuracy with its interval."""
        found = self._held_out.figures(self.context.seed)
        self.figures |= {f"reward/{name}": value for name, value in found.items()}
        # The loss is logistic in raw scores.

    def outcomes(self) -> PairOutcomes:
        """Return what the test saw, row by row."""
        return self._rows.outcomes(self.reward_model.head.std.item())
