"""Several processes, one for each device, as Lightning sees them."""

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer

from hydralign.ranks import Ranks


class RanksStrategy(DDPStrategy):
    """Starts the processes and connects them, and leaves the networks alone.

    `DistributedDataParallel` would average gradients after each backward pass, and wants every
    parameter to have one. Here losses are sums over what the whole step counts, several roles take
    turns on one base, and gradients are summed once a step.
    """

    def configure_ddp(self) -> None:
        """Wrap nothing."""


class SummedGradients(L.Callback):
    """Adds up the processes' gradients before they are clipped.

    Stages that step by hand do so themselves.
    """

    def __init__(self, ranks: Ranks) -> None:
        """Name the processes."""
        self.ranks = ranks

    def on_before_optimizer_step(
        self, trainer: L.Trainer, stage: Any, optimizer: Optimizer
    ) -> None:
        """Add up what the step's micro-batches have left."""
        if stage.automatic_optimization:
            self.ranks.sum_(p.grad for group in optimizer.param_groups for p in group["params"])
