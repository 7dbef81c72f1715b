"""What a run folder says of how it came about, and whether a run may go on in it."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf

from hydralign.artifacts import MANIFEST, PACKAGES, digest, write_json
from hydralign.errors import UserError

RECORD = "run.json"
SHOWN = 6
"""Settings that a message lists."""


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """Return all that could change a run's result, and nothing of the machine."""
    keys = ("model", "data", "stage")
    chosen: dict[str, Any] = {k: OmegaConf.to_container(cfg[k], resolve=True) for k in keys}
    rounding = {"optimizer": cfg.hardware.optimizer} if "8bit" in cfg.hardware.optimizer else {}
    if "rewards" in cfg:
        chosen["rewards"] = OmegaConf.to_container(cfg.rewards, resolve=True)
    return {**chosen, "seed": cfg.seed, "stop_after": cfg.stop_after, "hardware": rounding}


def write_record(run_dir: Path, cfg: DictConfig, inputs: Mapping[str, Path], **more: Any) -> None:
    """Write what a run is and where it runs.

    Args:
        run_dir: of the run.
        cfg: of the run.
        inputs: artifacts that it starts from, by name.
        more: what else to note.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    said = {
        "settings": settings_of(cfg),
        "hardware": OmegaConf.to_container(cfg.hardware, resolve=True),
        "inputs": {name: str(path) for name, path in inputs.items()},
        "command": sys.argv,
        "process": os.getpid(),
        "commit": _commit(),
        "machine": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in PACKAGES},
    }
    write_json(run_dir / RECORD, {**said, **more})


def close_record(
    run_dir: Path, cfg: DictConfig, inputs: Mapping[str, Path], fingerprint: str
) -> None:
    """Note that a run is finished, and leave what is said of its making: not now, but then.

    Args:
        run_dir: of the run.
        cfg: of the run.
        inputs: artifacts that it starts from, by name.
        fingerprint: of both. A record of another run is replaced.
    """
    before = read_record(run_dir)
    if before.get("fingerprint") == fingerprint:
        write_json(run_dir / RECORD, {**before, "unfinished": False})
    else:
        write_record(run_dir, cfg, inputs, fingerprint=fingerprint, unfinished=False)


def check_may_begin(run_dir: Path, cfg: DictConfig) -> None:
    """Check what a run folder says before anything in it is changed.

    Raises:
        UserError: if another process is at work there, or if what stopped there is another run.
    """
    if cfg.resume and Path(cfg.resume).resolve() != run_dir.resolve():
        raise UserError(
            f"resume={cfg.resume} is understood on the command line only, as resume=DIR and "
            "without hydra.run.dir."
        )
    before = read_record(run_dir)
    if is_at_work(run_dir):
        raise UserError(
            f"{run_dir} is the folder of a run that is at work (process {before['process']}). "
            "Wait for it, or choose another folder: hydra.run.dir=DIR."
        )
    stopped = cfg.resume or any(run_dir.rglob("*.ckpt"))
    if stopped and not cfg.resume_anyway:
        _check_settings(run_dir, before, cfg)


def check_the_same(run_dir: Path, cfg: DictConfig, fingerprint: str) -> None:
    """Check that a run which goes on is the one that stopped.

    Args:
        run_dir: of the run that stopped.
        cfg: of the one that is to go on.
        fingerprint: of its config and inputs.

    Raises:
        UserError: if it is not, and nobody has said `resume_anyway=true`.
    """
    before = read_record(run_dir)
    if cfg.resume_anyway or before.get("fingerprint") == fingerprint:
        return
    _check_settings(run_dir, before, cfg)
    raise _another(run_dir, "a file of data, or an artifact that it starts from")


def check_same_data(run_dir: Path, cfg: DictConfig, fingerprint: str) -> None:
    """Check that a run which goes on learns from what it began with.

    Args:
        run_dir: of the run that stopped.
        cfg: of the one that is to go on.
        fingerprint: of its examples.

    Raises:
        UserError: if they are others, and nobody has said `resume_anyway=true`.
    """
    if not cfg.resume_anyway and read_record(run_dir).get("data", fingerprint) != fingerprint:
        raise _another(run_dir, "the examples that its data set gives")


def _check_settings(run_dir: Path, before: Mapping[str, Any], cfg: DictConfig) -> None:
    changes = [*differences(before.get("settings", {}), settings_of(cfg))]
    if changes:
        raise _another(run_dir, ", ".join(changes[:SHOWN]))


def _another(run_dir: Path, changed: str) -> UserError:
    return UserError(
        f"{run_dir} holds a run that stopped, and this one is another. Changed: {changed}. "
        "Use the settings that it was started with, or another folder (hydra.run.dir=DIR), or go "
        "on all the same: resume_anyway=true (learning rates and KL coefficient stay as they were)."
    )


def is_at_work(run_dir: Path) -> bool:
    """Say whether another process is busy with the run in a folder."""
    said = read_record(run_dir)
    process = said.get("process", os.getpid()) if said.get("unfinished") else os.getpid()
    if process == os.getpid():
        return False
    try:  # a number is given anew after a while, and after the machine has started again
        born = psutil.Process(process).create_time()
    except psutil.Error:
        return False
    return born <= (run_dir / RECORD).stat().st_mtime


def recorded_inputs(run_dir: Path) -> dict[str, Path]:
    """Return the artifacts that the run in a folder started from, by name."""
    return {name: Path(path) for name, path in read_record(run_dir).get("inputs", {}).items()}


def commands_of(run_dir: Path) -> list[str]:
    """Return the commands that led to the run in a folder, the first one first."""
    said = read_record(run_dir)
    before = list(said.get("inputs", {}).values())
    before += [said.get("settings", {}).get("model", {}).get("source") or ""]
    commands = [
        command
        for artifact in before
        if Path(artifact, MANIFEST).is_file()
        for command in commands_of(Path(artifact).parent)
    ]
    program, *overrides = said.get("command") or [""]
    own = [shlex.join(["python", Path(program).name, *overrides])] if program else []
    return list(dict.fromkeys([*commands, *own]))


def newest_unfinished(outputs: Path, cfg: DictConfig) -> Path:
    """Return the newest run folder with the same settings that has no result yet.

    Args:
        outputs: searched at any depth.
        cfg: of the run that is to go on.

    Raises:
        UserError: if there is none.
    """
    wanted = digest(settings_of(cfg))
    found = [
        path
        for path in outputs.rglob(RECORD)
        if (said := read_record(path.parent)).get("unfinished")
        and digest(said["settings"]) == wanted
        and not is_at_work(path.parent)
    ]
    if not found:
        raise UserError(
            f"resume=auto: no run under {outputs} stopped with the same settings. Name its folder "
            "(resume=DIR), or leave resume out to begin."
        )
    return max(found, key=lambda path: (_has_come_far(path.parent), path.stat().st_mtime)).parent


def _has_come_far(run_dir: Path) -> bool:
    """Say whether there is more than a beginning: a checkpoint, or a stage that is finished."""
    return any(path for name in ("*.ckpt", MANIFEST) for path in run_dir.rglob(name))


def read_record(run_dir: Path) -> dict[str, Any]:
    """Read what `write_record` wrote; nothing, where it is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads((run_dir / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Say which of some nested settings are others than before."""
    old, new = dict(_flat(before)), dict(_flat(after))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name} was {old.get(name)}, is {new.get(name)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _commit() -> str | None:
    """Name the commit that the code stands at, if it is a checkout; with a + where it is edited."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        run = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        head = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        edited = subprocess.run([*git, "status", "--porcelain", "."], **run).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}{'+' if edited else ''}"
