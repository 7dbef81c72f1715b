"""How many rows go through the network at a time, and what happens where memory does not suffice.

The size is a matter of memory only: losses are sums over what the whole step counts, so a step that
is cut more finely has the same gradient.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from hydralign.errors import UserError
from hydralign.memory import let_go

T = TypeVar("T")

log = logging.getLogger(__name__)

SAID = ("out of memory", "can't allocate memory", "not enough memory", "_ALLOC_FAILED")
"""How libraries put it that have no exception of its own for it."""


class MicroBatches:
    """So many rows at a time, and half as many whenever memory does not suffice."""

    def __init__(self, size: int, setting: str = "micro_batch_size", *, rows: int = 1) -> None:
        """Set out with a size.

        Args:
            size: the most examples at a time.
            setting: the key that says how many rows may be together, for messages.
            rows: of each example.
        """
        self.size, self.setting, self.rows = size, setting, rows
        self.planned = ""
        """What the memory plan said, for messages."""

    @property
    def override(self) -> str:
        """The setting that starts with the present size."""
        return f"{self.setting}={self.size * self.rows}"

    def run(self, attempt: Callable[[int], T]) -> T:
        """Call a function with the size; where memory does not suffice, again with half of it.

        Args:
            attempt: of the size. It may be cut short anywhere, and must then begin anew.

        Raises:
            UserError: if there is no memory for a single example.
        """
        while True:
            try:
                return attempt(self.size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).strip().partition("\n")[0]
            # Only here: the exception has kept alive what the attempt had made.
            self._halve(said)

    def over(self, rows: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to (n,) row numbers, some at a time; what is done is not done again.

        Args:
            rows: which rows.
            function: of some of them; its result has as many.
        """
        done: list[Tensor] = []
        while len(rows) or not done:
            done.append(self.run(lambda size, rows=rows: function(rows[:size])))  # type: ignore[misc]
            rows = rows[len(done[-1]) :]
        return torch.cat(done)

    def _halve(self, said: str) -> None:
        if self.size == 1:
            raise UserError(
                f"There is no memory even with {self.override}: {said}\n{self.planned}"
                "The same settings after `python scripts/plan.py` show what takes it, and what "
                "takes less."
            )
        self.size //= 2
        let_go()
        log.warning(
            "Memory did not suffice (%s). Going on with %s; results stay the same. Say so from the "
            "start next time, and nothing is done twice.",
            said,
            self.override,
        )


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an exception means that memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)
