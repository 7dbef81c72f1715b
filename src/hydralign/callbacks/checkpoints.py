"""All that a run needs to go on as if it had not stopped, in one file of its folder.

It is written between two steps, when everything that they did has been logged. There is one, the
newest; when the artifact stands it is removed.
"""

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from hydralign.errors import UserError
from hydralign.ranks import Ranks

CHECKPOINT = "checkpoint.ckpt"
EVENTS = "events.out.tfevents.*"
"""What TensorBoard reads; only ever appended to."""


class Checkpoints(L.Callback):
    """Writes the checkpoint now and then, and before a run ends that was told to stop."""

    def __init__(self, run_dir: Path, ranks: Ranks, *, minutes: float) -> None:
        """Set where and how often.

        Args:
            run_dir: gets the file.
            ranks: the processes of the run, which save together.
            minutes: between two checkpoints; 0 saves after every step.
        """
        self.run_dir, self.ranks, self.seconds = run_dir, ranks, 60 * minutes
        self.stopping = False
        self._restored: dict[str, Any] | None = None
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Let a checkpoint hold less than the stage: what is frozen comes from elsewhere."""
        module.strict_loading = False

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Be there between steps, and when the run is told to stop."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.train_loader.between_steps = partial(self._between_steps, trainer)
        self._saved = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._told_to_stop)
        if self._restored is not None:  # only now: the stage has set out from the beginning
            _set_state(stage, self._restored["stage"])
            _set_random_state(self._restored["random"])

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Log at the steps that an uninterrupted run logs at."""
        if self._restored is not None:
            # Lightning counts a step twice where it goes on right after a look at held-out data.
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._restored["stepped"]
            self._restored = None

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Leave signals as they were."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def on_save_checkpoint(
        self, trainer: L.Trainer, stage: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what trains, the random states, and how far TensorBoard's files reach."""
        checkpoint["state_dict"] = {
            name: checkpoint["state_dict"][name] for name in _names_that_train(stage)
        }
        checkpoint["stage"], checkpoint["random"] = _state(stage), _random_state()
        for logger in trainer.loggers:
            logger.save()  # to the file, not to a queue
        files = self.run_dir.glob(EVENTS)
        checkpoint["events"] = {file.name: file.stat().st_size for file in files}
        checkpoint["micro_batches"] = trainer.accumulate_grad_batches
        checkpoint["stepped"] = trainer.fit_loop.epoch_loop._batches_that_stepped

    def on_load_checkpoint(
        self, trainer: L.Trainer, stage: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Check that the checkpoint is one of such a run.

        Raises:
            UserError: if other weights train now, or steps have another number of micro-batches.
        """
        if set(checkpoint["state_dict"]) != set(_names_that_train(stage)):
            raise UserError(
                f"{self.run_dir / CHECKPOINT} holds other weights than those that train now. "
                "Use the model config that the run was started with."
            )
        if checkpoint["micro_batches"] != trainer.accumulate_grad_batches:
            raise UserError(
                f"{self.run_dir / CHECKPOINT}: a step had {checkpoint['micro_batches']} "
                f"micro-batches, and now has {trainer.accumulate_grad_batches}. "
                "Use the hardware.train_micro_batch_size that the run was started with."
            )
        self._restored = {name: checkpoint[name] for name in ("stage", "random", "stepped")}

    def _between_steps(self, trainer: L.Trainer) -> None:
        due = self.stopping or time.monotonic() - self._saved >= self.seconds
        told = self.ranks.gather((due, self.stopping))
        if any(due for due, _ in told):
            trainer.save_checkpoint(self.run_dir / CHECKPOINT)
            self._saved = time.monotonic()
        if any(stopping for _, stopping in told):
            raise KeyboardInterrupt

    def _told_to_stop(self, number: int, frame: Any) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        if self.ranks.first:
            sys.stderr.write("\nStopping after this step. Once more: stop at once.\n")


class WholeFile(CheckpointIO):
    """Writes a checkpoint aside, then renames it: the last good one is there at any moment."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: of tensors, numbers, texts and containers of them.
            path: of the file.
            storage_options: of no use here.
        """
        path = Path(path)
        aside = path.with_name(f"{path.name}.partial")
        try:
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; code in it is never run.

        Args:
            path: of the file.
            map_location: of no use here: everything is read into main memory.
            weights_only: of no use here: always.

        Raises:
            UserError: if it is no checkpoint.
        """
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file.

        Args:
            path: of it.
        """
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without looking at tensors before they are needed.

    Raises:
        UserError: if it is none.
    """
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is no checkpoint that can be read: {error}. Delete it to begin anew."
        ) from error
    return found


def rewind_events(run_dir: Path) -> None:
    """Take back what was logged after the checkpoint: it will be logged again."""
    reach = read_checkpoint(run_dir / CHECKPOINT)["events"]
    for file in run_dir.glob(EVENTS):
        if file.name in reach:
            os.truncate(file, reach[file.name])
        else:
            file.unlink()


def _names_that_train(stage: Any) -> list[str]:
    return [name for name, parameter in stage.named_parameters() if parameter.requires_grad]


def _state(stage: Any) -> dict[str, Any]:
    """Return what a stage says that it has besides weights: numbers and generators."""
    values = {name: getattr(stage, name) for name in getattr(stage, "state", ())}
    return {n: v.get_state() if isinstance(v, torch.Generator) else v for n, v in values.items()}


def _set_state(stage: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(getattr(stage, name), torch.Generator):
            getattr(stage, name).set_state(value)
        else:
            setattr(stage, name, value)


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - libraries may draw from it
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"])
