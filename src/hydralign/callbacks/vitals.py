"""How fast training goes, and what memory it takes."""

import time
from typing import Any

import lightning as L

from hydralign.data.loaders import Step
from hydralign.memory import peak_memory_gb


class Vitals(L.Callback):
    """Watches stages whose steps hold texts; one that samples them logs these figures itself."""

    def __init__(self, every: int = 10) -> None:
        """Set how often speed and memory are logged.

        Args:
            every: steps.
        """
        self.every = every

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._tokens = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, stage: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count tokens; log the mean speed since the last time."""
        if not isinstance(batch, Step):
            return
        self._tokens += batch.tokens
        if (index + 1) % self.every == 0:
            tokens = self._tokens * trainer.world_size  # of processes with like shares
            speed = tokens / (time.perf_counter() - self._started)
            stage.log("perf/tokens_per_second", speed, prog_bar=True)
            stage.log("perf/peak_memory_gb", peak_memory_gb())
            self.on_train_start(trainer, stage)
