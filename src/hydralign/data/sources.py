"""Reading rows from a local file or from the Hugging Face hub."""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydralign.data.label_database import read_rankings
from hydralign.data.rows import Row
from hydralign.errors import UserError


def load_rows(
    path: str, split: str = "train", columns: Sequence[str] = (), name: str | None = None
) -> list[Row]:
    """Read all rows of a data set.

    Args:
        path: a local file (json, jsonl, csv, parquet, or sqlite, which scripts/label.py makes), or
            the id of a data set on the hub.
        split: which split to read on the hub; a local file has none.
        columns: columns that every row must have.
        name: which configuration to read on the hub, where it has several.

    Raises:
        UserError: if the file or the data set cannot be read, is empty, or lacks a column.
    """
    file = check_file(path)
    rows = _read_file(file) if file is not None else _read_hub(path, name, split)
    if not rows:
        raise UserError(f"{path} has no rows.")
    for row in rows:
        if missing := [column for column in columns if column not in row.values]:
            raise UserError(
                f"{path}, row {row.number}: column {', '.join(missing)} is missing.\n"
                f"  found:  {', '.join(map(str, row.values)) or 'no columns'}\n"
                f"  wanted: {', '.join(columns)}"
            )
    return rows


def check_file(path: str) -> Path | None:
    """Return the local file that a path means, or None if it is the id of a data set on the hub.

    Raises:
        UserError: if the file is not there, or not one that can be read.
    """
    file = Path(path).expanduser()
    if not file.exists() and file.suffix not in READERS:
        return None
    if file.suffix not in READERS:
        raise UserError(
            f"{file}: cannot read {'a folder' if file.is_dir() else f'suffix {file.suffix!r}'}. "
            f"data.path must name a file that ends in {', '.join(READERS)}."
        )
    if not file.is_file():
        raise UserError(f"data.path={file}: there is no such file (looked in {Path.cwd()}).")
    return file


def content_hash(file: Path) -> str:
    """Hash what a local file says.

    Of a database that is its rows: its bytes change without them, and what was saved last may still
    stand in a file beside it.
    """
    if READERS.get(file.suffix) is read_rankings:
        return hashlib.sha256(repr(read_rankings(file)).encode()).hexdigest()
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _read_file(file: Path) -> list[Row]:
    try:
        return READERS[file.suffix](file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}.") from error
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: permission denied.") from error


def _read_jsonl(file: Path) -> list[Row]:
    rows = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}, line {number} is not JSON: {error}.\n  found:  {line[:80].rstrip()}\n"
                    "  wanted: one JSON object per line"
                ) from error
            rows.append(_object_row(file, number, value))
    return rows


def _read_json(file: Path) -> list[Row]:
    text = file.read_text(encoding="utf-8-sig")
    if not text.strip():
        return []
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not JSON: {error}. A file of one JSON object per line must end in .jsonl."
        ) from error
    if not isinstance(values, list):
        raise UserError(f"{file} holds {type(values).__name__}, wanted a list of objects.")
    return [_object_row(file, number, value) for number, value in enumerate(values, start=1)]


def _object_row(file: Path, number: int, value: object) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{file}, row {number} holds {type(value).__name__}, wanted an object.")
    return Row(number, value)


def _read_csv(file: Path) -> list[Row]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        # Short rows lack their last columns instead of holding None, so that they are noticed.
        return [
            Row(number, {str(column): text for column, text in values.items() if text is not None})
            for number, values in enumerate(csv.DictReader(lines), start=1)
        ]


def _read_parquet(file: Path) -> list[Row]:
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        values = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{file} is not a parquet file: {error}.") from error
    return _numbered(values)


def _read_hub(path: str, name: str | None, split: str) -> list[Row]:
    import datasets

    try:
        configuration = () if name is None else (name,)
        return _numbered(datasets.load_dataset(path, *configuration, split=split))
    except Exception as error:  # its errors have no common base: offline, no such id, no such split
        raise UserError(
            f"Could not load split {split!r} of {path!r} from the hub: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
            "Without a network, data.path=FILE reads a local json, jsonl, csv or parquet file "
            "with the same columns."
        ) from error


def _numbered(values: Any) -> list[Row]:
    return [Row(number, dict(row)) for number, row in enumerate(values, start=1)]


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".sqlite": read_rankings,
}
