"""The command line: how a run that fails ends, and how a sweep outlives it."""

import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from hydralign.explain import explain

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

FULL_ERROR = "HYDRA_FULL_ERROR"

show_tracebacks = os.environ.get(FULL_ERROR) == "1"
"""Whether the user wants them for mistakes too."""

failures: list[str] = []
"""Of a sweep: the overrides of each job that failed, with its message."""


def launch(main: Callable[[], None], conf_dir: Path) -> None:
    """Run the Hydra application; a user's mistake ends it with one message and exit status 1.

    Args:
        main: the function that `hydra.main` has decorated.
        conf_dir: of the configs, to find the name that was meant.
    """
    os.environ[FULL_ERROR] = "1"  # else Hydra prints a summary of its own, which hides the cause
    logging.raiseExceptions = False  # else a log file on a full disk complains at every line
    _give_help_a_stage(sys.argv)
    try:
        main()
    except KeyboardInterrupt:
        _say("Stopped.")
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = _message_for(error, conf_dir)
        if message is None:
            raise
        sys.exit(f"\n{message}")
    if failures:
        sys.exit(f"\n{len(failures)} job(s) of the sweep failed:\n\n" + "\n\n".join(failures))


def job(task: Callable[[DictConfig], float]) -> Callable[[DictConfig], float]:
    """Decorate what Hydra runs once, or once for each job of a sweep.

    A failed job of a sweep counts as NaN and does not stop the others.

    Args:
        task: the function that `hydra.main` will decorate.
    """

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> float:
        try:
            return task(cfg)
        except (KeyboardInterrupt, SystemExit) as stop:
            # Lightning makes an exit of Ctrl-C.
            if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            _say(_stopped())
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            message = _message_for(error)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return _note_failure(error, message)
            if message is None:
                raise
            raise SystemExit(f"\n{message}") from error  # past Hydra, which would add its own

    return guarded


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait for the end of some imports: a library may swallow it half-way."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _message_for(error: Exception, conf_dir: Path | None = None) -> str | None:
    return None if show_tracebacks else explain(error, conf_dir)


def _note_failure(error: Exception, message: str | None) -> float:
    """Say that a job of a sweep has failed, and keep its message for the end."""
    if message is None:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error}"
    failure = f"{' '.join(HydraConfig.get().overrides.task)}\n{message}"
    failures.append(failure)
    _say(f"This job of the sweep failed: {failure}\nThe others go on.")
    return float("nan")


def _stopped() -> str:
    hydra = HydraConfig.get()
    folder = f"hydra.run.dir={hydra.runtime.output_dir}"
    if hydra.mode == RunMode.MULTIRUN:
        folder = f"hydra.sweep.dir={hydra.sweep.dir}"
    return (
        "Stopped. No half-written artifact was left.\n"
        f"The same command with {folder} takes finished stages as they are and runs the rest."
    )


def _give_help_a_stage(arguments: list[str]) -> None:
    """Let `--help` show the settings of all stages where none is chosen: there is no default."""
    chosen = any(argument.startswith(("stage=", "experiment=")) for argument in arguments)
    if {"--help", "-h"} & set(arguments) and not chosen:
        arguments.append("stage=rlhf")


def _say(message: str) -> None:
    sys.stderr.write(f"\n{message}\n")
