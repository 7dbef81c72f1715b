"""The command line: how a run that fails ends, and how a sweep outlives it."""

import functools
import gc
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from hydralign.errors import UserError
from hydralign.explain import explain
from hydralign.record import RECORD, newest_unfinished, read_record

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
    threading.excepthook = _thread_failed
    _give_help_a_stage(sys.argv)
    try:
        _go_on_in_its_folder(sys.argv, conf_dir)
        main()
    except BrokenPipeError:  # `| head` has read enough, and the last flush must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        _say("Stopped.")
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = _message_for(error, conf_dir)
        if message is None:
            raise
        sys.exit(f"\n{message}")
    if failures:
        sys.exit("\n\n".join([f"\nJobs of the sweep that failed: {len(failures)}", *failures]))


def job(task: Callable[[DictConfig], float]) -> Callable[[DictConfig], float]:
    """Decorate what Hydra runs once, or once for each job of a sweep.

    A failed job of a sweep counts as NaN and does not stop the others.

    Args:
        task: the function that `hydra.main` will decorate.
    """

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> float:
        signal.signal(signal.SIGTERM, _interrupt)
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


def _interrupt(number: int, frame: Any) -> None:
    """Let SIGTERM do what Ctrl-C does."""
    raise KeyboardInterrupt


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


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Let Python look for no garbage during some imports: it takes a seventh of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _message_for(error: Exception, conf_dir: Path | None = None) -> str | None:
    return None if show_tracebacks else explain(error, conf_dir)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    # TensorBoard writes in a thread, and raises the same error in the main one.
    if failed.exc_value is None or show_tracebacks or explain(failed.exc_value) is None:
        threading.__excepthook__(failed)


def _note_failure(error: Exception, message: str | None) -> float:
    """Say that a job of a sweep has failed, and keep its message for the end."""
    if message is None:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error}"
    hydra = HydraConfig.get()
    name = f"#{hydra.job.num}: {' '.join(hydra.overrides.task)}"
    failures.append(f"{name}\n{message}")
    _say(f"This job failed, the sweep goes on. {failures[-1]}")
    return float("nan")


def _stopped() -> str:
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        goes_on = f"hydra.sweep.dir={hydra.sweep.dir}"
    else:
        begun = read_record(Path(hydra.runtime.output_dir))
        goes_on = f"{'resume' if begun else 'hydra.run.dir'}={hydra.runtime.output_dir}"
    return (
        "Stopped. No half-written artifact was left.\n"
        f"The same command with {goes_on} takes finished stages as they are and goes on with the "
        "rest."
    )


def _give_help_a_stage(arguments: list[str]) -> None:
    """Let `--help` show the settings of all stages where none is chosen: there is no default."""
    if not {"--help", "-h"} & set(arguments):
        return
    places = [i for i, argument in enumerate(arguments) if "=" in argument]
    if not any(arguments[i].startswith(("stage=", "experiment=")) for i in places):
        # Beside the other overrides: argparse wants them in one piece.
        arguments.insert(places[0] if places else len(arguments), "stage=rlhf")


def _go_on_in_its_folder(arguments: list[str], conf_dir: Path) -> None:
    """Let `resume=DIR` be the folder of the run; `resume=auto` is looked up.

    Raises:
        UserError: if no run has begun there, or a sweep is asked for.
    """
    places = [i for i, argument in enumerate(arguments) if argument.startswith("resume=")]
    if not places or arguments[places[-1]] == "resume=null":
        return
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("resume is for one run. A sweep goes on with hydra.sweep.dir=DIR.")
    folder = arguments[places[-1]].partition("=")[2].strip("'\"")
    if folder == "auto":
        folder = _newest_with_these_settings(arguments[1:], conf_dir)
    elif not read_record(Path(folder)):
        raise UserError(
            f"resume={folder}: no run has begun there ({RECORD} is missing). Name the folder of a "
            "run that stopped, or resume=auto."
        )
    quoted = "'" + folder.replace("'", r"\'") + "'"  # a folder of a sweep has = and commas
    arguments[places[-1]] = f"resume={quoted}"
    # Beside the other overrides: argparse wants them in one piece.
    arguments.insert(places[-1] + 1, f"hydra.run.dir={quoted}")


def _newest_with_these_settings(arguments: list[str], conf_dir: Path) -> str:
    overrides = [x for x in arguments if re.match(r"[+~\w]", x) and ("=" in x or x[0] == "~")]
    others = [x for x in overrides if not x.startswith(("resume=", "hydra."))]
    with initialize_config_dir(str(conf_dir.resolve()), version_base="1.3"):
        cfg = compose("train", overrides=others)
    return str(newest_unfinished(Path(cfg.outputs), cfg))


def _say(message: str) -> None:
    sys.stderr.write(f"\n{message}\n")
