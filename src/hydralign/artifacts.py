"""What a finished stage leaves, and how the next one finds and checks it."""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from hydralign.errors import UserError
from hydralign.whole_file import whole_file

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PACKAGES = ("hydralign", "torch", "lightning", "transformers", "tokenizers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Lineage:
    """What two artifacts must have in common to work together."""

    base: str
    """The weights that no stage has changed: hub id, folder, or the digest of an architecture."""
    quantization: str
    lora: str
    """The adapters' shape; "none" for full weights."""
    template: str
    """How prompts are rendered."""
    stopped_after: int | None = None
    """Steps, where stages were ended early to try things out; None where they were not."""

    def differences(self, other: "Lineage") -> list[str]:
        """Say where another lineage departs from this one."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{k} {theirs[k]!r} instead of {mine[k]!r}" for k in mine if mine[k] != theirs[k]]


@dataclass(frozen=True)
class Manifest:
    """The record that lies beside an artifact's weights."""

    id: str
    stage: str
    lineage: Lineage
    template_hash: str
    """Of the template's text, the vocabulary and the special tokens."""
    config_hash: str
    """Of everything that could change the result: model, data, stage, seed, parents."""
    parents: dict[str, str]
    """Ids of the artifacts that the stage started from, by input name."""
    score_mean: float
    score_std: float
    """Normalisation of a reward model's scores: (raw - mean) / std."""
    metrics: dict[str, float]
    versions: dict[str, str]
    created: float
    """Seconds since 1970."""
    score_range: Sequence[float] | None = None
    """Of a reward model: the lowest and the highest normalised score of its test comparisons."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file beside it, by name."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of an artifact.

        Raises:
            UserError: if it is no artifact, or its manifest cannot be read.
        """
        path = folder / MANIFEST
        try:
            fields = json.loads(path.read_text())
            return cls(**{**fields, "lineage": Lineage(**fields["lineage"])})
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} is no artifact of a finished stage: {path} is missing."
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}. Run its stage again.") from error


def finished_before(folder: Path, config_hash: str) -> Manifest | None:
    """Return the manifest of an artifact that the same config has left; None if there is none."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = Manifest.read(folder)
    return manifest if manifest.config_hash == config_hash else None


def digest(value: Any) -> str:
    """Return a short hash of anything that JSON can hold."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def new_manifest(**fields: Any) -> Manifest:
    """Fill in what every manifest says of its making: id, versions, time."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return Manifest(id=uuid.uuid4().hex, versions=versions, created=time.time(), **fields)


def write_artifact(folder: Path, manifest: Manifest, write: Callable[[Path], None]) -> None:
    """Write an artifact aside, then rename it: a half-written one is never found.

    Args:
        folder: where it shall lie; an older one there is replaced.
        manifest: its record.
        write: writes the weights into the folder it is given.
    """
    aside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write(aside)
        hashes = {path.name: sha256(path) for path in aside.iterdir() if path.is_file()}
        said = asdict(manifest) | {"files": hashes}
        (aside / MANIFEST).write_text(json.dumps(said, indent=2))
        (folder / MANIFEST).unlink(missing_ok=True)  # first: without it the rest is no artifact
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that the files of an artifact are those that its stage has left.

    Raises:
        UserError: if one is missing or has changed.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file() or _sha256_of(path, path.stat().st_mtime_ns) != expected:
            raise UserError(
                f"{path} is {'changed' if path.exists() else 'missing'}: it is not what "
                f"stage={manifest.stage} has left (SHA-256 in {MANIFEST}). Copy the artifact again "
                "or run its stage again; to use the folder as it is, delete its manifest."
            )


@cache
def _sha256_of(path: Path, changed: int) -> str:
    return sha256(path)


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """Return what JSON can hold: it has no word for NaN."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def write_json(path: Path, values: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write a JSON file; another one there is replaced."""
    with whole_file(path) as aside:
        aside.write_text(json.dumps(values, indent=indent) + "\n")


def find_artifact(outputs: Path, stage: str, lineage: Lineage, command: str) -> Path:
    """Return the newest finished artifact of a stage that fits.

    Args:
        outputs: searched at any depth.
        stage: that made it.
        lineage: that it must share.
        command: that would make one, for the message.

    Raises:
        UserError: if there is none; says what there is instead.
    """
    fitting, others = [], []
    for path in outputs.rglob(f"artifact/{MANIFEST}"):
        try:
            manifest = Manifest.read(path.parent)
        except UserError as error:  # one damaged folder must not hide the others
            log.warning("Passed over: %s", error)
            continue
        if manifest.stage != stage:
            continue
        differences = lineage.differences(manifest.lineage)
        if differences:
            others.append(f"\n  {path.parent} has {', '.join(differences)}")
        else:
            fitting.append((manifest.created, path.parent))
    if not fitting:
        found = f" Found, but not fitting:{''.join(others)}\n" if others else ""
        raise UserError(
            f"No finished stage={stage} under {outputs} fits this run.{found} "
            f"Make one with: {command}"
        )
    return max(fitting)[1]


def check_lineage(folder: Path, manifest: Manifest, lineage: Lineage, where: str) -> None:
    """Check an artifact that the user named.

    Raises:
        UserError: if it does not fit; `where` is the key that named it.
    """
    differences = lineage.differences(manifest.lineage)
    if differences:
        raise UserError(
            f"{where}={folder} does not fit this run: it has {', '.join(differences)}. "
            "Name an artifact made with the same model and data config, or change those."
        )
