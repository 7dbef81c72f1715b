"""How training goes, whatever is trained: gradient norm, learning rate, speed and memory."""

import time
from typing import Any

import lightning as L
from torch import nn
from torch.optim import Optimizer

from hydralign.memory import peak_memory_gb


class Vitals(L.Callback):
    """Watches stages with automatic optimisation; the others log these figures themselves."""

    def __init__(self, every: int = 10) -> None:
        """Set how often speed and memory are logged.

        Args:
            every: micro-batches.
        """
        self.every = every

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._tokens = 0

    def on_before_optimizer_step(
        self, trainer: L.Trainer, stage: Any, optimizer: Optimizer
    ) -> None:
        """Log the norm of the whole step's gradient, before clipping, and the learning rate."""
        if not stage.automatic_optimization:
            return
        name = stage.product.removesuffix("_model")
        gradients = [
            p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None
        ]
        stage.log(f"{name}/grad_norm", nn.utils.get_total_norm(gradients))
        stage.log(f"{name}/learning_rate", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, stage: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count tokens; log the mean speed since the last time."""
        if not hasattr(batch, "sequences"):
            return
        self._tokens += int(batch.sequences.attention_mask.sum())
        if (index + 1) % self.every == 0:
            tokens = self._tokens * trainer.world_size  # of processes with like shares
            speed = tokens / (time.perf_counter() - self._started)
            stage.log("perf/tokens_per_second", speed, prog_bar=True)
            stage.log("perf/peak_memory_gb", peak_memory_gb())
            self.on_train_start(trainer, stage)
