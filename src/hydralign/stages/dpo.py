"""Direct preference optimisation: learn from rankings without a reward model or sampling.

Rafailov et al. 2023 (arXiv 2305.18290). The reward is implicit: `beta` times how much more likely
than the reference the policy finds a response.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hydralign.data.collate import ComparisonBatch
from hydralign.data.loaders import Step
from hydralign.models.assembly import RoleSpec
from hydralign.models.roles import TextRole
from hydralign.outcomes import PairOutcomes
from hydralign.rl.masks import masked_sum
from hydralign.rl.preference import dpo_loss
from hydralign.rl.sequences import Sequences
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.pairs import TIE, HeldOutPairs, PairRows, pair_accuracies
from hydralign.stages.supervised import SupervisedStage


@dataclass
class DPOSettings:
    """Hyperparameters of `stage=dpo`."""

    policy: str | None
    """Artifact of `stage=sft` to start from; the newest that fits, if null."""
    loss: str
    """sigmoid, ipo, hinge or robust."""
    beta: float
    """Weight of the implicit KL penalty; for ipo the regularisation tau."""
    label_smoothing: float
    """Share of the rankings taken to be wrong; of use to sigmoid and robust."""
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

    def __post_init__(self) -> None:
        """Check the choice of the loss."""
        losses = ("sigmoid", "ipo", "hinge", "robust")
        if self.loss not in losses:
            raise ValueError(f"loss={self.loss} does not exist. Choose one of {', '.join(losses)}")
        if not self.beta > 0:
            raise ValueError(f"beta={self.beta} must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be from 0 to below 0.5")
        if self.label_smoothing and self.loss in ("ipo", "hinge"):
            raise ValueError(f"loss={self.loss} knows no label_smoothing: choose sigmoid or robust")


class DPO(SupervisedStage):
    """Prefers what people prefer, as far as `beta` lets it from the reference."""

    settings = DPOSettings
    records = ("comparison",)
    inputs = {"policy": "sft"}
    roles = {"policy": RoleSpec("policy", trained=True), "reference": RoleSpec("policy")}
    product = "policy"
    headline = "dpo/pair_accuracy"

    def __init__(
        self,
        settings: DPOSettings,
        context: StageContext,
        *,
        policy: TextRole,
        reference: TextRole,
    ) -> None:
        """Put the stage together.

        Args:
            settings: hyperparameters.
            context: machine and data.
            policy: trains, from the SFT policy on.
            reference: the SFT policy, frozen.
        """
        super().__init__(settings, context)
        self.policy = policy
        self.reference = reference
        self._held_out = HeldOutPairs()
        self._rows = PairRows("nats of implicit reward")
        self._means = Averages()

    def passes(self, step: Step, size: int, averages: Averages) -> None:
        """Go through a step, some examples at a time."""
        for batch in step.micro_batches(size):
            with torch.no_grad():
                reference = totals(self.reference, batch.sequences)
            policy = totals(self.policy, batch.sequences)
            loss = self._loss(policy - reference, batch)
            # Mean over prompts of the mean over each prompt's pairs, over the whole step.
            self.manual_backward((batch.weight * loss).sum() / batch.prompts)
            averages.add("dpo/loss", loss)
            self._look(averages, policy.detach(), reference, batch)

    def _loss(self, log_ratios: Tensor, batch: ComparisonBatch) -> Tensor:
        """Return (pairs,); a tie is half a win of the one and half a win of the other."""
        options = self.options
        margin = log_ratios[batch.first] - log_ratios[batch.second]
        loss = partial(
            dpo_loss,
            beta=options.beta,
            kind=options.loss,
            label_smoothing=options.label_smoothing,
        )
        return batch.target * loss(margin) + (1 - batch.target) * loss(-margin)

    def _look(
        self, averages: Averages, policy: Tensor, reference: Tensor, batch: ComparisonBatch
    ) -> None:
        """Add what the policy makes of both sides of the pairs that are no ties."""
        rewards = self.options.beta * (policy - reference)
        decided = batch.target != TIE
        won = batch.target[decided] == 1
        first, second = batch.first[decided], batch.second[decided]
        chosen, rejected = first.where(won, second), second.where(won, first)
        averages.add("dpo/accuracy", pair_accuracies(rewards, batch))
        averages.add("dpo/margin", rewards[chosen] - rewards[rejected])
        averages.add("dpo/chosen_reward", rewards[chosen])
        averages.add("dpo/rejected_reward", rewards[rejected])
        averages.add("dpo/chosen_logprob", policy[chosen])
        averages.add("dpo/rejected_logprob", policy[rejected])

    def validation_step(self, batch: ComparisonBatch, index: int) -> None:
        """Add held-out comparisons."""
        self._add(batch)

    def _add(self, batch: ComparisonBatch) -> Tensor:
        policy, reference = (
            self.context.ranks.map(partial(totals, role), batch.sequences, self.context.scoring)
            for role in (self.policy, self.reference)
        )
        self._held_out.add(policy - reference, batch)
        self._means.add("val_loss", self._loss(policy - reference, batch))
        self._look(self._means, policy, reference, batch)
        return self.options.beta * (policy - reference)

    def on_validation_epoch_end(self) -> None:
        """Log the share of held-out pairs that the implicit reward ranks as people did."""
        means, self._means = self._means.means(), Averages()
        self.figures["dpo/val_accuracy"] = self._held_out.accuracy()
        self.log("dpo/val_accuracy", self.figures["dpo/val_accuracy"], prog_bar=True)
        self.log("dpo/val_loss", means["val_loss"])
        self.log("dpo/val_margin", means["dpo/margin"])

    def test_step(self, batch: ComparisonBatch, index: int) -> None:
        """Add comparisons of the test split."""
        self._rows.add(self._add(batch), batch)

    def on_test_epoch_end(self) -> None:
        """Report the accuracy with its interval, and what the policy makes of both sides."""
        found = self._held_out.figures(self.context.seed)
        self.figures |= {f"dpo/{name}": value for name, value in found.items()}
        means = self._means.means()
        for name in ("margin", "chosen_reward", "rejected_reward"):
            self.figures[f"dpo/{name}"] = means[f"dpo/{name}"]

    def outcomes(self) -> PairOutcomes:
        """Return what the test saw, row by row."""
        options = self.options
        # With smoothing the implicit reward fits a probability that is not that of the labels.
        logistic = options.loss in ("sigmoid", "robust") and not options.label_smoothing
        return self._rows.outcomes(1.0 if logistic else None)


def totals(role: TextRole, sequences: Sequences) -> Tensor:
    """Return (n,) the log-prob of each whole response, the stop token included, in nats.

    Args:
        role: that says them.
        sequences: n prompts with their responses.
    """
    return masked_sum(role(sequences), sequences.response_mask, dim=-1)
