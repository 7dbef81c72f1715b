"""Several processes, one for each device, as Lightning sees them."""

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from hydralign.errors import UserError
from hydralign.ranks import Ranks


class RanksStrategy(DDPStrategy):
    """Starts the processes and connects them, and leaves the networks alone.

    `DistributedDataParallel` would average gradients after each backward pass, and wants every
    parameter to have one. Here losses are sums over what the whole step counts, several roles take
    turns on one base, and gradients are summed once a step.
    """

    def configure_ddp(self) -> None:
        """Wrap nothing. Equal weights at the start rest on equal seeds and inputs."""


class SameRun(L.Callback):
    """Checks that the processes belong together."""

    def __init__(self, ranks: Ranks, fingerprint: str) -> None:
        """Name the processes.

        Args:
            ranks: which of them this is.
            fingerprint: of config and inputs, which must be those of the others.
        """
        self.ranks, self.fingerprint = ranks, fingerprint

    def on_fit_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Check that all processes are here and mean the same run.

        Raises:
            UserError: if they do not.
        """
        if (trainer.global_rank, trainer.world_size) != (self.ranks.index, self.ranks.size):
            raise UserError(
                f"hardware.devices={self.ranks.size}: this process takes itself for number "
                f"{self.ranks.index}, and Lightning for number {trainer.global_rank} of "
                f"{trainer.world_size}. Start one `python train.py` without a launcher such as "
                "srun; it starts the others."
            )
        if len(set(self.ranks.gather(self.fingerprint))) > 1:
            raise UserError(
                "The processes of this run found different inputs: another run has finished "
                "meanwhile. Name the artifacts (stage.policy=DIR ...) and start again."
            )
