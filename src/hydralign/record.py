"""What a run folder says of how it came about, and whether a run may go on in it."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hydralign.artifacts import PACKAGES, digest, write_json
from hydralign.errors import UserError

RECORD = "run.json"
SHOWN = 6
"""Settings that a message lists."""


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """Return all that could change a run's result, and nothing of the machine."""
    keys = ("model", "data", "stage")
    chosen: dict[str, Any] = {k: OmegaConf.to_container(cfg[k], resolve=True) for k in keys}
    return {**chosen, "seed": cfg.seed, "stop_after": cfg.stop_after}


def write_record(run_dir: Path, cfg: DictConfig, **more: Any) -> None:
    """Write what a run is and where it runs.

    Args:
        run_dir: of the run.
        cfg: of the run.
        more: what else to note.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    said = {
        "settings": settings_of(cfg),
        "hardware": OmegaConf.to_container(cfg.hardware, resolve=True),
        "command": sys.argv,
        "commit": _commit(),
        "machine": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in PACKAGES},
    }
    write_json(run_dir / RECORD, {**said, **more})


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
    changes = [*_differences(before.get("settings", {}), settings_of(cfg))]
    said = ", ".join(changes[:SHOWN]) or "a file of data, or an artifact that it starts from"
    raise UserError(
        f"{run_dir} holds a run that stopped, and this one is another. Changed: {said}. "
        "Use the settings that it was started with, or another folder (hydra.run.dir=DIR), or go "
        "on with the new ones: resume_anyway=true."
    )


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
    ]
    if not found:
        raise UserError(
            f"resume=auto: no run under {outputs} stopped with the same settings. Name its folder "
            "(resume=DIR), or leave resume out to begin."
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def read_record(run_dir: Path) -> dict[str, Any]:
    """Read what `write_record` wrote; nothing, where it is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads((run_dir / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
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
