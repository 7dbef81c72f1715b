"""The one LightningDataModule, whatever the records."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning as L

from hydralign.data.loaders import Collate, EvaluationLoader, Example, Step, TrainLoader
from hydralign.data.splits import Splits
from hydralign.ranks import Ranks


class RecordDataModule(L.LightningDataModule):
    """Hands encoded examples to the Trainer."""

    def __init__(
        self,
        examples: Splits[Any],
        collate: Collate,
        *,
        make_step: Collate | None = None,
        steps: int,
        batch_size: int,
        seed: int,
        eval_batch_size: int,
        ranks: Ranks | None = None,
    ) -> None:
        """Put the data of a run together.

        Args:
            examples: of each split.
            collate: makes a batch.
            make_step: makes what is handed out for a step; if None, a `Step` to be cut.
            steps: optimizer steps in the whole run.
            batch_size: examples per optimizer step.
            seed: of the order in training.
            eval_batch_size: examples per batch elsewhere.
            ranks: the processes that share each step.

        Raises:
            UserError: if the sizes do not divide, or there are too few examples for one step.
        """
        super().__init__()
        self.examples = examples
        self.collate = collate
        self.eval_batch_size = eval_batch_size
        self.train_loader = TrainLoader(
            examples.train,
            make_step or partial(Step, collate=collate),
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            ranks=ranks,
        )

    @property
    def train_examples(self) -> Sequence[Example]:
        """The examples that are trained on."""
        return self.examples.train

    @property
    def validation_examples(self) -> Sequence[Example]:
        """The examples watched during training."""
        return self.examples.validation

    @property
    def test_examples(self) -> Sequence[Example]:
        """The examples that the final figures come from."""
        return self.examples.test

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training examples."""
        return self.train_loader.steps_per_epoch

    def train_dataloader(self) -> TrainLoader:
        """Return the shuffled steps of the whole run."""
        return self.train_loader

    def val_dataloader(self) -> EvaluationLoader:
        """Return the validation split in order."""
        return self._in_order(self.examples.validation)

    def test_dataloader(self) -> EvaluationLoader:
        """Return the test split in order."""
        return self._in_order(self.examples.test)

    def _in_order(self, examples: Sequence[Example]) -> EvaluationLoader:
        return EvaluationLoader(examples, self.collate, batch_size=self.eval_batch_size)
