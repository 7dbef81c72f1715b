"""A file of responses to rank that a stopped run goes on with."""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hydralign.artifacts import write_json
from hydralign.errors import UserError, disk_errors
from hydralign.record import differences

SUFFIX = ".jsonl"
OTHER_FILE = "--out FILE, or --by-hand FILE"


def left_out_of(path: Path) -> Path:
    """Return the file beside one of samples that holds the rows with nothing to rank."""
    return path.with_name(f"{path.stem}.left_out{SUFFIX}")


def is_for_people(row: dict[str, Any]) -> bool:
    """Say whether there is something to rank: several responses, none empty, no two the same."""
    texts = [response.strip() for response in row["responses"]]
    return len(texts) > 1 and all(texts) and len(set(texts)) == len(texts)


class SampleFile:
    """Rows in a file, and a note beside it of how they were made and how many there are.

    Rows with nothing to rank go to a file of their own, ranked: an empty response is worse than one
    that is not, and others are equal. The file stays locked for other processes until `close`.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Begin the file, or go on with it.

        Args:
            path: of the rows, JSON lines.
            settings: all that decides what they hold.

        Raises:
            UserError: if the file is there and of other settings, or of none that are known, if
                another process is at it, or the disk does not take it.
        """
        self.path, self.note = path, path.with_name(f"{path.name}.json")
        self.left_out_path = left_out_of(path)
        self.said: dict[str, Any] = {"settings": settings, "batches": 0, "left_out": 0}
        self.said["bytes"] = {"rows": 0, "left_out": 0}
        with disk_errors(path, OTHER_FILE):
            self._begin()

    def _begin(self) -> None:
        begun = self.note.is_file() and self.path.is_file()
        if not begun and (there := [p for p in (self.path, self.left_out_path) if p.exists()]):
            raise UserError(
                f"{there[0]} is there, and {self.note.name}, which says how it was made, is not. "
                f"Remove it, or choose another file: {OTHER_FILE}."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if begun:
                self._go_on()
            self._note()
        except BlockingIOError as error:
            self.close()
            raise UserError(
                f"Another process is writing {self.path}. Wait for its end, or choose another "
                f"file: {OTHER_FILE}."
            ) from error
        except Exception:
            self.close()
            raise

    def __enter__(self) -> "SampleFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write the file."""
        self._lock.close()

    @property
    def batches(self) -> int:
        """How many are done."""
        return int(self.said["batches"])

    @property
    def left_out(self) -> int:
        """Prompts with nothing to rank."""
        return int(self.said["left_out"])

    def responses(self) -> list[int]:
        """Return how many each row has."""
        with self.path.open() as file:
            return [len(json.loads(line)["responses"]) for line in file]

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the rows of a batch, those with nothing to rank apart from the others."""
        left_out = [_ranked(row) for row in rows if not is_for_people(row)]
        with disk_errors(self.path, OTHER_FILE):
            self.said["bytes"] = {
                "rows": _append(self.path, [row for row in rows if is_for_people(row)]),
                "left_out": _append(self.left_out_path, left_out),
            }
            self.said["batches"] += 1
            self.said["left_out"] += len(left_out)
            self._note()

    def _go_on(self) -> None:
        try:
            before = json.loads(self.note.read_text())
            changes = list(differences(before["settings"], self.said["settings"]))
            rows, left_out = before["bytes"]["rows"], before["bytes"]["left_out"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.note} cannot be read. Choose another file: {OTHER_FILE}."
            ) from error
        if changes:
            raise UserError(
                f"{self.path} was begun with other settings: {'; '.join(changes[:4])}. Use those, "
                f"or choose another file: {OTHER_FILE}."
            )
        _cut(self.path, rows)
        _cut(self.left_out_path, left_out)
        self.said = before

    def _note(self) -> None:
        write_json(self.note, self.said)


def _ranked(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"ranks": [1 if response.strip() else 2 for response in row["responses"]]}


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    """Return how long the file is then, in bytes; without any row it is not made."""
    if not rows and not path.exists():
        return 0
    with path.open("ab") as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _cut(path: Path, known: int) -> None:
    """Cut off what a kill has left of a batch.

    Raises:
        UserError: if the file is shorter than it was.
    """
    size = path.stat().st_size if path.exists() else 0
    if size < known:
        raise UserError(f"{path} has been cut since. Choose another file: {OTHER_FILE}.")
    if size > known:
        os.truncate(path, known)
