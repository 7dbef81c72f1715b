"""The progress bar of a stage."""

import sys
from typing import Any

from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

REFRESHES_IN_LOGS = 20
"""How often a bar is drawn in all where there is no terminal to redraw it on."""


class StageProgressBar(TQDMProgressBar):
    """Lightning's bar, named after the stage, and quiet in log files."""

    def __init__(self, name: str, steps: int) -> None:
        """Name the bar.

        Args:
            name: of the stage.
            steps: of the run.
        """
        on_terminal = sys.stderr.isatty()
        super().__init__(
            refresh_rate=1 if on_terminal else max(1, steps // REFRESHES_IN_LOGS), leave=True
        )
        self.name = name

    def init_train_tqdm(self) -> Tqdm:
        """Drop the word "Epoch": one epoch is the whole run."""
        bar = super().init_train_tqdm()
        bar.set_description(self.name)
        return bar

    def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
        """Name the bar after the stage instead of the epoch."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(self.name)

    def get_metrics(self, *args: Any) -> dict[str, int | str | float | dict[str, float]]:
        """Leave the version out, and the group off each name."""
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)
        return {name.rpartition("/")[2]: value for name, value in metrics.items()}
