"""The processes of a run, one for each device, and what they tell each other."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hydralign.errors import UserError
from hydralign.micro_batches import MicroBatches

T = TypeVar("T")
Batch = TypeVar("Batch", bound="Rows")


class Rows(Protocol):
    """A batch that rows can be taken of."""

    def __len__(self) -> int:
        """Count its rows."""

    def select(self: Batch, rows: Tensor) -> Batch:
        """Return some of them."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that do a run together; one alone has nobody to talk to.

    Every process reads all the data, computes its share of the rows of each pass, and learns what
    the others have found. So all hold the same figures and take the same decisions, which are
    those that one process would take. What exchanges something (all but `share`) must be called
    by every process: one that calls it alone waits forever.
    """

    index: int = 0
    """From 0."""
    size: int = 1
    """Processes in all."""

    @classmethod
    def here(cls, devices: int) -> "Ranks":
        """Find out which process this is.

        Args:
            devices: of the run, a process for each.
        """
        return cls(int(os.environ.get("LOCAL_RANK", 0)), devices) if devices > 1 else cls()

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.index == 0

    def share(self, rows: Tensor) -> Tensor:
        """Return every size-th of some (n,) row numbers: those of this process."""
        return rows[self.index :: self.size]

    def spread(self, function: Callable[[Tensor], Tensor], rows: int) -> Tensor:
        """Apply a function to all rows, each process to its share; return what all have found.

        Args:
            function: of (n,) row numbers; its result has n rows.
            rows: how many there are.
        """
        if self.size == 1:
            return function(torch.arange(rows))
        # As many for each, for nobody to wait forever: what is too much repeats the last row.
        each = -(-rows // self.size)
        mine = (torch.arange(each) * self.size + self.index).clamp(max=rows - 1)
        found = function(mine).contiguous()
        parts = [torch.empty_like(found) for _ in range(self.size)]
        with _all_present():
            dist.all_gather(parts, found)
        return torch.stack(parts, dim=1).flatten(0, 1)[:rows]

    def map(
        self, function: Callable[[Batch], Tensor], batch: Batch, micro_batches: MicroBatches
    ) -> Tensor:
        """Apply a function to a batch in micro-batches, each process to its share of the rows.

        Args:
            function: of a few rows; its result has as many.
            batch: of b rows.
            micro_batches: rows at a time.

        Returns:
            (b, ...) the results of all processes.
        """

        def of_rows(rows: Tensor) -> Tensor:
            return micro_batches.over(rows, lambda piece: function(batch.select(piece)))

        return self.spread(of_rows, len(batch))

    def sum_(self, gradients: Iterable[Tensor | None]) -> None:
        """Add up the gradients of all processes, in place.

        Args:
            gradients: of the same parameters in each process; None has to be so in all of them.

        Raises:
            UserError: if a parameter has a gradient in some processes only.
        """
        if self.size == 1:
            return
        given = list(gradients)
        missing = self.gather([index for index, x in enumerate(given) if x is None])
        if any(part != missing[0] for part in missing):
            raise UserError(
                "Some parameters have a gradient in one process and none in another, as a mixture "
                "of experts may have. Such a model trains on one device: hardware.devices=1."
            )
        with _all_present():
            pending = [dist.all_reduce(x, async_op=True) for x in given if x is not None]
            for work in pending:
                work.wait()

    def gather(self, item: T) -> list[T]:
        """Return what each process has, the first one's first."""
        if self.size == 1:
            return [item]
        parts: list[T | None] = [None] * self.size
        with _all_present():
            dist.all_gather_object(parts, item)
        return parts  # type: ignore[return-value]


@contextmanager
def _all_present() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo has no error of its own for it
        raise UserError(
            "Another process of this run has ended, so this one stops too. If it said why, that "
            f"stands above; if not, it was killed, as for want of memory. ({error})"
        ) from error
