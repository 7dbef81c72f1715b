"""What is frozen stays as it is: checked, not hoped for."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from hydralign.errors import BadNumbers

WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes."""


PIECE = 2**22
"""Numbers that are added up at a time."""


class FrozenWeights(L.Callback):
    """Compares the base, the reference and the reward model before and after training."""

    def on_fit_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Note what they are."""
        self._before = _sums(stage)

    def on_save_checkpoint(self, trainer: L.Trainer, stage: Any, checkpoint: Any) -> None:
        """Check before the last good checkpoint is replaced: a night is long."""
        self.on_train_end(trainer, stage)

    def on_train_end(self, trainer: L.Trainer, stage: Any) -> None:
        """Check that they still are.

        Raises:
            BadNumbers: if a frozen weight has changed.
        """
        after = _sums(stage)
        changed = [name for name, total in self._before.items() if after.get(name) != total]
        if changed:
            raise BadNumbers(
                f"{len(changed)} frozen weights have changed in training, such as {changed[0]}: "
                "what they gave was not what it was taken for. A stage must not write to roles "
                "that it does not train.",
                {"changed": changed},
            )


def _sums(stage: Any) -> dict[str, int]:
    return {
        name: bits_sum(weight)
        for name, weight in stage.named_parameters()
        if not weight.requires_grad
    }


@torch.no_grad()
def bits_sum(tensor: Tensor) -> int:
    """Add up a tensor's elements, read as whole numbers: another bit, another sum.

    Args:
        tensor: of any type and device.
    """
    numbers = tensor.detach().reshape(-1).view(WHOLE_NUMBERS[tensor.element_size()])
    # In pieces: torch makes a copy of 8 bytes for each number that it adds up.
    return sum(int(piece.sum(dtype=torch.int64)) for piece in numbers.split(PIECE))
