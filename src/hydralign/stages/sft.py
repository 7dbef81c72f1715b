"""Supervised fine-tuning: imitate demonstrations."""

from dataclasses import dataclass

import torch

from hydralign.data.collate import DemonstrationBatch
from hydralign.data.loaders import Step
from hydralign.data.module import RecordDataModule
from hydralign.data.unigram import unigram_nll
from hydralign.models.assembly import RoleSpec
from hydralign.models.roles import TextRole
from hydralign.rl.masks import masked_sum
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.supervised import SupervisedStage


@dataclass
class SFTSettings:
    """Hyperparameters of `stage=sft`."""

    learning_rate: float
    """Peak."""
    steps: int
    """Optimizer steps."""
    batch_size: int
    """Demonstrations per optimizer step."""
    schedule: str
    warmup_steps: int
    """Optimizer steps."""
    weight_decay: float
    max_grad_norm: float


class SFT(SupervisedStage):
    """Cross-entropy on the response tokens, the stop token included."""

    settings = SFTSettings
    records = ("demonstration",)
    inputs: dict[str, str] = {}
    roles = {"policy": RoleSpec(trained=True)}
    product = "policy"
    headline = "sft/val_nll"

    def __init__(self, settings: SFTSettings, context: StageContext, *, policy: TextRole) -> None:
        """Put the stage together.

        Args:
            settings: hyperparameters.
            context: machine and data.
            policy: trains.
        """
        super().__init__(settings, context)
        self.policy = policy
        self._held_out = Averages()

    def passes(self, step: Step, size: int, averages: Averages) -> None:
        """Go through a step, some examples at a time."""
        for batch in step.micro_batches(size):
            mask = batch.sequences.response_mask
            logprobs = self.policy(batch.sequences)
            self.manual_backward(-masked_sum(logprobs, mask) / batch.response_tokens)
            averages.add("policy/loss", -logprobs, mask)

    def validation_step(self, batch: DemonstrationBatch, index: int) -> None:
        """Add a batch of held-out demonstrations."""
        sequences = batch.sequences
        stats = self.context.ranks.map(
            lambda some: torch.stack(self.policy.stats(some), -1), sequences, self.context.scoring
        )
        logprobs, entropy = stats.unbind(-1)
        self._held_out.add("nll", -logprobs, sequences.response_mask)
        self._held_out.add("entropy", entropy, sequences.response_mask)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out loss in nats per response token."""
        means = self._held_out.means()
        self._held_out = Averages()
        self.figures["sft/val_nll"] = means["nll"]
        self.log("policy/val_nll", means["nll"], prog_bar=True)
        self.log("policy/val_entropy", means["entropy"])

    def test_step(self, batch: DemonstrationBatch, index: int) -> None:
        """Add a batch of the test split."""
        self.validation_step(batch, index)

    def on_test_epoch_end(self) -> None:
        """Set the test loss beside what a model without any context would reach."""
        data: RecordDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.figures["sft/test_nll"] = self._held_out.means()["nll"]
        self.figures["sft/unigram_nll"] = unigram_nll(
            data.examples.train, data.examples.validation, len(self.context.codec.tokenizer)
        )
