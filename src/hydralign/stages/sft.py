"""Supervised fine-tuning: imitate demonstrations."""

from dataclasses import dataclass
from functools import partial

import lightning as L
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydralign.batch_plan import supervised_plan
from hydralign.data.collate import DemonstrationBatch
from hydralign.data.loaders import Step
from hydralign.data.module import RecordDataModule
from hydralign.data.unigram import unigram_nll
from hydralign.models.assembly import RoleSpec
from hydralign.models.roles import TextRole
from hydralign.rl.masks import masked_sum
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.optimizers import make_optimizer
from hydralign.stages.updates import take_supervised_step


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


class SFT(L.LightningModule):
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
        super().__init__()
        self.automatic_optimization = False  # a step that did not fit in memory is taken again
        self.options = settings
        self.context = context
        self.policy = policy
        self.sampling = context.sampling()
        self.figures: dict[str, float] = {}
        self._held_out = Averages()

    def batch_plan(self, data: RecordDataModule) -> str:
        """Say in words what a step is."""
        loader = data.train_dataloader()
        return supervised_plan(
            self.options.steps,
            loader.batch_size,
            self.context.training.size,
            len(data.train_examples),
            "demonstration",
        )

    def training_step(self, step: Step, index: int) -> None:
        """Take one optimizer step."""
        take_supervised_step(self, step, "policy", partial(self._passes, step))

    def _passes(self, step: Step, size: int, averages: Averages) -> None:
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

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """AdamW and its schedule, stepped by hand."""
        optimizer, scheduler = make_optimizer(
            self.policy.trained_parameters(),
            self.context.optimizer,
            learning_rate=self.options.learning_rate,
            schedule=self.options.schedule,
            warmup_steps=self.options.warmup_steps,
            steps=self.options.steps,
            weight_decay=self.options.weight_decay,
            betas=(0.9, 0.95),
        )
        return [optimizer], [scheduler]
