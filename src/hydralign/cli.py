"""What the command line says when something goes wrong: one clear message, and an exit status."""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydralign.errors import UserError, nearest

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

FULL_ERROR = "HYDRA_FULL_ERROR"


def launch(main: Callable[[], None], conf_dir: Path) -> int:
    """Run the Hydra application and turn what it raises into a message.

    Args:
        main: the function that `hydra.main` has decorated.
        conf_dir: of the configs, to find the name that was meant.

    Returns:
        the exit status. With HYDRA_FULL_ERROR=1 errors pass through with their traceback.
    """
    if os.environ.get(FULL_ERROR):
        main()
        return 0
    os.environ[FULL_ERROR] = "1"  # else Hydra prints its own summary and hides the cause
    try:
        main()
    except KeyboardInterrupt:
        return _complain(
            "Stopped. Nothing half-written was left behind; start again with the same command.",
            INTERRUPTED,
        )
    except Exception as error:
        message = explain(error, conf_dir)
        if message is None:
            raise
        return _complain(message)
    return _report(failures)


failures: list[tuple[str, str]] = []
"""Of a sweep: the overrides of each failed job, and its message."""


def survive_in_sweeps(task: Callable[[DictConfig], float]) -> Callable[[DictConfig], float]:
    """Keep one failed job of a sweep from stopping the others; it counts as NaN.

    Args:
        task: the function that `hydra.main` will decorate.
    """

    @functools.wraps(task)
    def wrapper(cfg: DictConfig) -> float:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            return task(cfg)
        try:
            return task(cfg)
        except Exception as error:
            message = explain(error, None) or f"{type(error).__name__}: {error}"
            overrides = " ".join(HydraConfig.get().overrides.task)
            failures.append((overrides, message))
            _complain(f"Failed: {overrides}\n{message}\nThe sweep goes on.")
            return float("nan")

    return wrapper


def explain(error: BaseException, conf_dir: Path | None) -> str | None:
    """Return the message for a user's mistake, or None for anything else.

    Args:
        error: as raised.
        conf_dir: of the configs, to find the name that was meant; None leaves that out.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _bad_override(error, conf_dir)
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f" at {error.filename}" if error.filename else ""
        return f"Cannot write{where}: {_DISK[error.errno]}."
    return None


_DISK = {
    errno.ENOSPC: "the disk is full. Free some space or choose another folder: hydra.run.dir=DIR",
    errno.EDQUOT: "the quota is used up. Free some space or choose another: hydra.run.dir=DIR",
    errno.EROFS: "the file system is read-only. Choose another folder: hydra.run.dir=DIR",
    errno.EACCES: "permission denied. Choose another folder: hydra.run.dir=DIR",
    errno.ENOTDIR: "a file is in the way of a folder. Choose another folder: hydra.run.dir=DIR",
    errno.EEXIST: "a file is in the way of a folder. Choose another folder: hydra.run.dir=DIR",
}


def _unknown_option(error: MissingConfigException) -> str:
    group, _, wrong = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or ())
    if not options:
        return str(error)
    return (
        f"{group}={wrong} does not exist.{nearest(wrong, options)} "
        f"Options of {group}: {', '.join(sorted(options))}."
    )


def _bad_override(error: Exception, conf_dir: Path | None) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error).strip()
    key = getattr(cause, "full_key", None) or _key_in(text)
    unknown = "is not in struct" in str(cause) or "not in '" in str(cause)
    if key and unknown and conf_dir is not None:
        return f"{key} does not exist.{nearest(key.rpartition('.')[2], _siblings(key, conf_dir))}"
    first = str(cause).strip().splitlines()[0]
    if key and isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return f"{key}: {first}"
    return text


def _key_in(text: str) -> str:
    found = re.search(r"override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    return found.group(1) if found else ""


def _siblings(key: str, conf_dir: Path) -> list[str]:
    """Names that stand where a misspelt key was looked for."""
    groups = [arg for arg in sys.argv[1:] if "=" in arg and "." not in arg.split("=")[0]]
    chosen = [arg for arg in groups if (conf_dir / arg.split("=")[0].lstrip("+")).is_dir()]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir.resolve()), version_base="1.3"):
            cfg = compose("train", [arg.replace(",", " ").split()[0] for arg in chosen])
    except HydraException:
        return []
    parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
    return [str(name) for name in parent] if OmegaConf.is_dict(parent) else []


def _report(failed: list[tuple[str, str]]) -> int:
    if not failed:
        return 0
    rows = "\n".join(f"  {overrides}\n    {message}" for overrides, message in failed)
    return _complain(f"{len(failed)} job(s) of the sweep failed:\n{rows}")


def _complain(message: str, status: int = 1) -> int:
    print(f"\n{message}", file=sys.stderr)  # noqa: T201
    return status
