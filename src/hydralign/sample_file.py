"""A file of responses to rank that a stopped run goes on with."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydralign.artifacts import write_json
from hydralign.errors import UserError
from hydralign.record import differences


class SampleFile:
    """Rows in a file, and a note beside it of how they were made and how many there are."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Begin the file, or go on with it.

        Args:
            path: of the rows, JSON lines.
            settings: all that decides what they hold.

        Raises:
            UserError: if the file is there and of other settings, or of none that are known.
        """
        self.path, self.note = path, path.with_name(f"{path.name}.json")
        self.said: dict[str, Any] = {"settings": settings, "batches": 0, "bytes": 0, "left_out": 0}
        if self.note.is_file() and path.is_file():
            self._go_on()
        elif path.exists():
            raise UserError(
                f"{path} is there, and {self.note.name}, which says how it was made, is not. "
                "Remove it, or choose another file: --out FILE."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._note()

    @property
    def batches(self) -> int:
        """How many are done."""
        return int(self.said["batches"])

    @property
    def left_out(self) -> int:
        """Prompts with fewer than two responses that differ."""
        return int(self.said["left_out"])

    def responses(self) -> list[int]:
        """Return how many each row has."""
        with self.path.open() as file:
            return [len(json.loads(line)["responses"]) for line in file]

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the rows of a batch, without those that leave nothing to choose."""
        good = [row for row in rows if len(row["responses"]) > 1]
        with self.path.open("ab") as file:
            file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in good)
            file.flush()
            os.fsync(file.fileno())
            self.said["bytes"] = file.tell()
        self.said["batches"] += 1
        self.said["left_out"] += len(rows) - len(good)
        self._note()

    def _go_on(self) -> None:
        try:
            before = json.loads(self.note.read_text())
            changes = list(differences(before["settings"], self.said["settings"]))
            known = before["bytes"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.note} cannot be read. Choose another file: --out.") from error
        if changes:
            raise UserError(
                f"{self.path} was begun with other settings: {'; '.join(changes[:4])}. Use those, "
                "or choose another file: --out FILE."
            )
        if self.path.stat().st_size < known:
            raise UserError(f"{self.path} has been cut since. Choose another file: --out FILE.")
        self.said = before
        with self.path.open("ab") as file:
            file.truncate(known)  # what a kill has left of a batch

    def _note(self) -> None:
        write_json(self.note, self.said)
