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

from hydralign.artifacts import digest
from hydralign.errors import UserError
from hydralign.ranks import Ranks

CHECKPOINT = "checkpoint.ckpt"
PARTIAL = f"{CHECKPOINT}.partial"
EVENTS = "events.out.tfevents.*"
"""What TensorBoard reads; only ever appended to."""


LAYOUT = 2
"""Counted up when what is kept changes its meaning."""


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
        self.started, self._seconds_before = time.perf_counter(), 0.0
        self.built = 0.0
        """Of the elapsed seconds, those before training."""

    @property
    def elapsed(self) -> float:
        """Seconds that the stage has taken, those before a stop included."""
        return self._seconds_before + time.perf_counter() - self.started

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Let a checkpoint hold less than the stage: what is frozen comes from elsewhere."""
        module.strict_loading = False

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Be there between steps, and when the run is told to stop."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.train_loader.between_steps = partial(self._between_steps, trainer)
        self._saved = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._told_to_stop)  # until Lightning puts the old ones back
        if self._restored is not None:  # only now: the stage has set out from the beginning
            _set_state(stage, self._restored["stage"])
            stage.context.load_state_dict(self._restored["context"])
            _set_random_state(self._restored["random"])

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Log at the steps that an uninterrupted run logs at."""
        if self._restored is not None:
            # Lightning counts a step twice where it goes on right after a look at held-out data.
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._restored["stepped"]
            self._restored = None

    def on_fit_end(self, trainer: L.Trainer, stage: Any) -> None:
        """Stop here, if the run was told so in its last step."""
        self._stop_if(any(self.ranks.gather(self.stopping)))

    def on_save_checkpoint(
        self, trainer: L.Trainer, stage: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what trains, the random states, and how far TensorBoard's files reach."""
        checkpoint["state_dict"] = {
            name: checkpoint["state_dict"][name] for name in _trained(stage)
        }
        checkpoint["stage"], checkpoint["random"] = _state(stage), _random_state()
        for logger in trainer.loggers:
            logger.save()  # to the file, not to a queue
        files = self.run_dir.glob(EVENTS)
        checkpoint["events"] = {file.name: file.stat().st_size for file in files}
        checkpoint["context"] = stage.context.state_dict()
        checkpoint["layout"] = LAYOUT
        checkpoint["made_with"] = _made_with(trainer, stage)
        checkpoint["seconds"], checkpoint["built"] = self.elapsed, self.built
        checkpoint["stepped"] = trainer.fit_loop.epoch_loop._batches_that_stepped

    def on_load_checkpoint(
        self, trainer: L.Trainer, stage: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what is put back once the stage has set out."""
        names = ("stage", "context", "random", "stepped")
        self._restored = {name: checkpoint[name] for name in names}
        self._seconds_before = checkpoint["seconds"]
        self.built += checkpoint.get("built", 0.0)  # earlier versions did not keep it

    def _between_steps(self, trainer: L.Trainer) -> None:
        due = self.stopping or time.monotonic() - self._saved >= self.seconds
        context: Any = trainer.lightning_module.context
        told = self.ranks.gather((due, self.stopping, context.state_dict()["sizes"]))
        for _, _, sizes in told:
            context.adopt(sizes)
        if any(due for due, _, _ in told):
            trainer.save_checkpoint(self.run_dir / CHECKPOINT)
            self._saved = time.monotonic()
        self._stop_if(any(stopping for _, stopping, _ in told))

    def _stop_if(self, told: bool) -> None:
        if told:
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
        aside = path.with_name(PARTIAL)
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


def check_fits(path: Path, trainer: L.Trainer, stage: Any) -> None:
    """Check that a checkpoint can go on in a stage, before anything is changed.

    Raises:
        UserError: if other weights train now, or another machine would do it in another way.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.get("layout") != LAYOUT:
        raise UserError(
            f"{path} is of another version of hydralign. Go on with that one (its commit stands in "
            "run.json beside it), or delete the file to begin anew."
        )
    before, now = checkpoint["made_with"], _made_with(trainer, stage)
    changes = [
        f"{name} was {before[name]}, is {now[name]}" for name in now if before[name] != now[name]
    ]
    if changes:
        raise UserError(
            f"{path} cannot go on with another {', another '.join(changes)}. Use the model and "
            "hardware config that the run was started with (they are in run.json beside it)."
        )


def remove_checkpoint(run_dir: Path) -> None:
    """Remove the checkpoint, and one that a kill has left half-written."""
    for name in (CHECKPOINT, PARTIAL):
        (run_dir / name).unlink(missing_ok=True)


def rewind_events(run_dir: Path) -> None:
    """Take back what was logged after the checkpoint: it will be logged again."""
    reach = read_checkpoint(run_dir / CHECKPOINT)["events"]
    for file in run_dir.glob(EVENTS):
        if file.name in reach:
            os.truncate(file, reach[file.name])
        else:
            file.unlink()


def _made_with(trainer: L.Trainer, stage: Any) -> dict[str, Any]:
    """Name what must be the same for a checkpoint to go on."""
    shapes = {name: tuple(parameter.shape) for name, parameter in _trained(stage).items()}
    return {
        "set of weights that train": digest(shapes),
        "kind of device": trainer.strategy.root_device.type,
        "hardware.optimizer": stage.context.optimizer,
    }


def _trained(stage: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in stage.named_parameters() if p.requires_grad}


def _state(stage: Any) -> dict[str, Any]:
    """Return what a stage says that it has besides weights."""
    return {name: _plain(getattr(stage, name)) for name in getattr(stage, "state", ())}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.state_dict() if hasattr(value, "state_dict") else value


def _set_state(stage: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        there = getattr(stage, name)
        if isinstance(there, torch.Generator):
            there.set_state(value)
        elif hasattr(there, "load_state_dict"):
            there.load_state_dict(value)
        else:
            setattr(stage, name, value)


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - libraries may draw from it
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        # Asking would start CUDA where it is not used.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for device, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_device, device)
