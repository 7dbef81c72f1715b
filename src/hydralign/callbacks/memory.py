"""What keeps main memory from filling with small pieces."""

import time
from typing import Any

import lightning as L

from hydralign import allocator


class ReturnedMemory(L.Callback):
    """Gives freed memory back between batches, now and then."""

    def __init__(self, every: float = 60.0) -> None:
        """Set how often.

        Args:
            every: seconds.
        """
        self.every = every
        self._last = time.monotonic()

    def on_train_batch_end(self, *args: Any) -> None:
        """Give back what a training step has left."""
        self._now_and_then()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Give back what a look at held-out data has left."""
        self._now_and_then()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Give back what the final test has left."""
        self._now_and_then()

    def _now_and_then(self) -> None:
        if time.monotonic() - self._last >= self.every:
            allocator.return_small_pieces()
            self._last = time.monotonic()
