"""Tokens a second and peak memory of stages whose batches are sequences."""

import time
from typing import Any

import lightning as L

from hydralign.stages.metrics import peak_memory_gb


class Throughput(L.Callback):
    """Logs `perf/` figures now and then; stages whose batches hold no sequences log their own."""

    def __init__(self, every: int = 10) -> None:
        """Set how often.

        Args:
            every: micro-batches.
        """
        self.every = every

    def on_train_start(self, trainer: L.Trainer, stage: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._tokens = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, stage: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count tokens; log the mean speed since the last time."""
        if not hasattr(batch, "sequences"):
            return
        self._tokens += int(batch.sequences.attention_mask.sum())
        if (index + 1) % self.every == 0:
            speed = self._tokens / (time.perf_counter() - self._started)
            stage.log("perf/tokens_per_second", speed, prog_bar=True)
            stage.log("perf/peak_memory_gb", peak_memory_gb())
            self.on_train_start(trainer, stage)
