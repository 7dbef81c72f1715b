"""Iterating over examples, one optimizer step after the other.

Plain iterables instead of `torch.utils.data.DataLoader`, which draws a number from the global
generator each time it is iterated: how often a run is evaluated would change what it samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True)
class Step:
    """The examples of one optimizer step, to be cut into micro-batches."""

    examples: Sequence[Any]
    """Those that this process is to go through, alike lengths together."""
    whole: Sequence[Any]
    """Those of all processes."""
    collate: Collate
    device: torch.device | str = "cpu"

    @property
    def tokens(self) -> int:
        """Tokens that this process goes through."""
        return sum(example.tokens for example in self.examples)

    def as_json(self) -> dict[str, Any]:
        """Return the examples of all processes for a file."""
        return {"examples": [asdict(example) for example in self.whole]}

    def to(self, device: torch.device | str) -> "Step":
        """Return the same step, for batches on another device."""
        return replace(self, device=device)

    def micro_batches(self, size: int) -> Iterator[Any]:
        """Lay out the examples, some at a time; the last may be fewer.

        Args:
            size: examples at a time.
        """
        for start in range(0, len(self.examples), size):
            batch = self.collate(self.examples[start : start + size], self.whole)
            yield batch.to(self.device)


class TrainLoader:
    """The shuffled steps of a whole run, as many passes over the examples as they take.

    What is left over after the last whole step of a pass is dropped. The order is a function of
    seed and pass alone. Lightning saves `state_dict` in its checkpoints, so that a run continues
    with the very next step.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        make_step: Collate,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        """Set out from the first step.

        Args:
            examples: the training split.
            make_step: makes what is handed out, of the examples of this process and of all.
            steps: optimizer steps in the whole run.
            batch_size: examples per optimizer step.
            seed: of the order.
            ranks: the processes that share each step.

        Raises:
            UserError: if the sizes do not divide, or there are too few examples for one step.
        """
        self.ranks = ranks or Ranks()
        if batch_size < 1 or batch_size % self.ranks.size:
            raise UserError(
                f"batch_size={batch_size} must be a multiple of the number of processes, "
                f"{self.ranks.size}"
            )
        if len(examples) < batch_size:
            raise UserError(
                f"{len(examples)} training examples do not fill one step of "
                f"batch_size={batch_size}. Choose a smaller one, or bring more records."
            )
        self.examples, self.make_step, self.seed = examples, make_step, seed
        self.batch_size, self.steps = batch_size, steps
        self._next = 0
        self.between_steps: Callable[[], None] = lambda: None
        """Called before each step but the first that is handed out."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the examples."""
        return len(self.examples) // self.batch_size

    def __len__(self) -> int:
        """Count the steps of the run."""
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        """Go on to the end of the run; after it, the same run again."""
        order: list[int] = []
        start = self._next if self._next < len(self) else 0
        for index in range(start, len(self)):
            if index > start:
                self.between_steps()
            epoch, place = divmod(index, self.steps_per_epoch)
            if not order or place == 0:
                order = self._order(epoch)
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            # Alike lengths share a micro-batch, for less padding; the longest first, so that memory
            # that does not suffice shows at once.
            step = sorted((self.examples[row] for row in rows), key=lambda e: -e.length)
            share = step[self.ranks.index :: self.ranks.size]
            # Moved on before the step is handed out: a state saved after it names the one after.
            self._next = index + 1
            yield self.make_step(share, step)

    def state_dict(self) -> dict[str, int]:
        """Return where the next step lies."""
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
