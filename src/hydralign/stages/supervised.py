"""What stages share that learn from texts which are there: sft, reward and dpo."""

from functools import partial
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydralign.batch_plan import supervised_plan
from hydralign.data.loaders import Step
from hydralign.data.module import RecordDataModule
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.optimizers import make_optimizer
from hydralign.stages.updates import take_step

SHOWN = ("loss", "accuracy", "margin")
"""What the progress bar shows, by how it ends."""


class SupervisedStage(L.LightningModule):
    """One optimizer step for each step of the data; a stage adds its passes and what it measures.

    What trains is the role that `product` names, what it learns from the first of `records`.
    """

    records: tuple[str, ...]
    product: str

    def __init__(self, settings: Any, context: StageContext) -> None:
        """Keep what every stage has.

        Args:
            settings: hyperparameters.
            context: machine and data.
        """
        super().__init__()
        self.automatic_optimization = False  # a step that did not fit in memory is taken again
        self.options = settings
        self.context = context
        self.sampling = context.sampling()
        self.figures: dict[str, float] = {}

    def batch_plan(self, data: RecordDataModule) -> str:
        """Say in words what a step is."""
        return supervised_plan(
            self.options.steps,
            self.options.batch_size,
            self.context.training.size,
            len(data.train_examples),
            self.records[0],
        )

    def training_step(self, step: Step, index: int) -> None:
        """Take one optimizer step, step the schedule, and log."""
        name, optimizer = self.product.removesuffix("_model"), self.optimizers()
        averages = take_step(self, optimizer, name, partial(self.passes, step), step.as_json)
        schedule: Any = self.lr_schedulers()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        for figure, value in averages.means().items():
            self.log(figure, value, prog_bar=figure.endswith(SHOWN))
        self.log(f"{name}/learning_rate", rate)

    def passes(self, step: Step, size: int, averages: Averages) -> None:
        """Leave the step's whole gradient, and add to averages what was seen.

        Args:
            step: of the data.
            size: examples at a time.
            averages: of the step.
        """
        raise NotImplementedError

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """AdamW and its schedule, stepped by hand."""
        optimizer, scheduler = make_optimizer(
            getattr(self, self.product).trained_parameters(),
            self.context.optimizer,
            learning_rate=self.options.learning_rate,
            schedule=self.options.schedule,
            warmup_steps=self.options.warmup_steps,
            steps=self.options.steps,
            weight_decay=self.options.weight_decay,
            betas=(0.9, 0.95),
        )
        return [optimizer], [scheduler]
