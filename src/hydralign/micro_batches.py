"""How many rows go through the network at a time, and what happens where memory does not suffice.

The size is a matter of memory only: losses are sums over what the whole step counts, so a step that
is cut more finely has the same gradient.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from hydralign.errors import ASK_THE_PLAN, UserError, is_out_of_memory, no_memory
from hydralign.memory import let_go

T = TypeVar("T")

log = logging.getLogger(__name__)


class MicroBatches:
    """So many rows at a time, and half as many whenever memory does not suffice."""

    def __init__(
        self, size: int, setting: str = "micro_batch_size", *, rows: int = 1, planned: str = ""
    ) -> None:
        """Set out with a size.

        Args:
            size: the most examples at a time.
            setting: the key that says how many rows may be together, for messages.
            rows: of each example.
            planned: what the memory plan said, for messages.
        """
        self.size = self.asked = size
        self.setting, self.rows, self.planned = setting, rows, planned

    @property
    def override(self) -> str:
        """The setting that starts with the present size."""
        return f"{self.setting}={self.size * self.rows}"

    def state(self) -> tuple[int, int]:
        """Return the size that was asked for, and the one that fits."""
        return self.asked, self.size

    def adopt(self, state: tuple[int, int]) -> None:
        """Go on with a size that was found to fit, unless another is asked for now.

        Args:
            state: of a run that stopped, or of another process.
        """
        asked, size = state
        if asked == self.asked and size < self.size:
            self.size = size
            log.warning("Going on with %s: more did not fit in memory.", self.override)

    def run(self, attempt: Callable[[int], T], most: int | None = None) -> T:
        """Call a function with the size; where memory does not suffice, again with half of it.

        Args:
            attempt: of the size. It may be cut short anywhere, and must then begin anew.
            most: examples that there are; None is enough for any size.

        Raises:
            UserError: if there is no memory for a single example.
        """
        again = False
        while True:
            size = self.size if most is None else max(1, min(self.size, most))
            try:
                return attempt(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = no_memory(error)
            let_go()  # only here: the exception has kept alive what the attempt had made
            # Where more may have fitted before, or nothing less is left, once more as it is.
            again = not again and (size < self.size or size == 1)
            if not again:
                self._halve(size, said)

    def over(self, rows: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to (n,) row numbers, some at a time; what is done is not done again.

        Args:
            rows: which rows.
            function: of some of them; its result has as many.
        """
        done: list[Tensor] = []
        while len(rows) or not done:
            piece = partial(_first, function, rows)
            done.append(self.run(piece, most=len(rows)))
            rows = rows[len(done[-1]) :]
        return torch.cat(done)

    def _halve(self, size: int, said: str) -> None:
        self.size = size
        if size == 1:
            raise UserError(
                f"There is no memory even with {self.override}: {said}\n"
                f"{self.planned}{ASK_THE_PLAN}"
            )
        self.size //= 2
        log.warning(
            "Memory did not suffice (%s). Going on with %s; results stay the same. Say so from the "
            "start next time, and nothing is done twice.",
            said,
            self.override,
        )


def _first(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    return function(rows[:size])
