"""Iterating over examples in micro-batches, several of them to an optimizer step.

Plain iterables instead of `torch.utils.data.DataLoader`, which draws a number from the global
generator each time it is iterated: how often a run is evaluated would change what it samples.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from hydralign.errors import UserError
from hydralign.ranks import Ranks


class Example(Protocol):
    """What a loader asks of an example."""

    @property
    def length(self) -> int:
        """Tokens in all."""


Collate = Callable[[Sequence[Any], Sequence[Any]], Any]
"""Makes a batch of the examples of a micro-batch and those of its whole optimizer step."""


class TrainLoader:
    """Shuffled micro-batches of a whole run, as many passes over the examples as its steps take.

    What is left over after the last whole step of a pass is dropped. The order is a function of
    seed and pass alone. Lightning saves `state_dict` in its checkpoints, so that a run continues
    with the very next micro-batch.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        collate: Collate,
        *,
        steps: int,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        """Set out from the first step.

        Args:
            examples: the training split.
            collate: makes a batch.
            steps: optimizer steps in the whole run.
            batch_size: examples per optimizer step.
            micro_batch_size: examples per forward pass; divides this process's share of a step.
            seed: of the order.
            ranks: the processes that share each step.

        Raises:
            UserError: if the sizes do not divide, or there are too few examples for one step.
        """
        self.ranks = ranks or Ranks()
        together = micro_batch_size * self.ranks.size
        if micro_batch_size < 1 or batch_size < 1 or batch_size % together:
            processes = f" times {self.ranks.size} processes" if self.ranks.size > 1 else ""
            raise UserError(
                f"batch_size={batch_size} must be a multiple of "
                f"micro_batch_size={micro_batch_size}{processes}"
            )
        if len(examples) < batch_size:
            raise UserError(
                f"{len(examples)} training examples do not fill one step of "
                f"batch_size={batch_size}. Choose a smaller one, or bring more records."
            )
        self.examples, self.collate, self.seed = examples, collate, seed
        self.batch_size, self.micro_batch_size, self.steps = batch_size, micro_batch_size, steps
        self._next = 0
        self.between_steps: Callable[[], None] = lambda: None
        """Called before each step but the first that is handed out."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the examples."""
        return len(self.examples) // self.batch_size

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches that one process makes of its share of a step."""
        return self.batch_size // self.ranks.size // self.micro_batch_size

    def __len__(self) -> int:
        """Count the micro-batches of the run."""
        return self.steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[Any]:
        """Go on to the end of the run; after it, the same run again."""
        micro_batches = self.micro_batches_per_step
        order: list[int] = []
        start = self._next if self._next < len(self) else 0
        for index in range(start, len(self)):
            number, part = divmod(index, micro_batches)
            if part == 0 and index > start:
                self.between_steps()
            epoch, place = divmod(number, self.steps_per_epoch)
            if not order or (place == 0 and part == 0):
                order = self._order(epoch)
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            # Alike lengths share a micro-batch, for less padding; the longest first, so that memory
            # that does not suffice shows at once.
            step = sorted((self.examples[row] for row in rows), key=lambda e: -e.length)
            share = step[self.ranks.index :: self.ranks.size]
            first = part * self.micro_batch_size
            batch = self.collate(share[first : first + self.micro_batch_size], step)
            # Moved on before the batch is handed out: a state saved after it names the one after.
            self._next = index + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where the next micro-batch lies."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where a saved state was."""
        self._next = state["next"]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order: list[int] = torch.randperm(len(self.examples), generator=generator).tolist()
        return order


class EvaluationLoader:
    """Batches in order, nothing dropped; each counts as a step of its own."""

    def __init__(self, examples: Sequence[Example], collate: Collate, *, batch_size: int) -> None:
        """Keep what to iterate over.

        Args:
            examples: a held-out split.
            collate: makes a batch.
            batch_size: examples per forward pass.
        """
        self.examples, self.collate, self.batch_size = examples, collate, batch_size

    def __len__(self) -> int:
        """Count the batches."""
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches."""
        for start in range(0, len(self.examples), self.batch_size):
            examples = self.examples[start : start + self.batch_size]
            yield self.collate(examples, examples)
