"""The database of rankings that people make (`hydralign.labels`): layout, opening, and its rows."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hydralign.data.rows import Row
from hydralign.errors import UserError

SUFFIX = ".sqlite"
VERSION = 1
"""Of the layout, kept as SQLite's `user_version`."""
APPLICATION = 0x68616C62
"""SQLite's `application_id`, which tells a database of ours from any other."""
MAGIC = b"SQLite format 3\0"
"""What every database of SQLite begins with."""
BUSY_SECONDS = 5.0
"""How long to wait for another process that writes."""

SCHEMA = f"""
CREATE TABLE items (
  id INTEGER PRIMARY KEY,
  content TEXT NOT NULL UNIQUE,        -- hash of prompt and responses
  prompt TEXT NOT NULL,                -- JSON: a text, or messages
  responses TEXT NOT NULL,             -- JSON: a list of texts
  samples TEXT,                        -- JSON: where each response came from
  priority REAL NOT NULL,              -- lower is handed out earlier
  wanted INTEGER NOT NULL DEFAULT 1    -- annotators that are to rank it
);
CREATE INDEX items_in_order ON items (priority, id);
CREATE TABLE rankings (
  id INTEGER PRIMARY KEY,
  token TEXT NOT NULL UNIQUE,          -- of the submission: sent twice, saved once
  item INTEGER NOT NULL REFERENCES items,
  annotator TEXT NOT NULL,
  ranks TEXT,                          -- JSON, in the order of the item; null: skipped
  note TEXT NOT NULL DEFAULT '',
  shown TEXT NOT NULL,                 -- JSON: the item's responses in the order they were shown
  seconds REAL,                        -- from first sight to saving
  saved_at TEXT NOT NULL,              -- UTC, ISO 8601
  undone_at TEXT
);
CREATE UNIQUE INDEX live_rankings ON rankings (item, annotator) WHERE undone_at IS NULL;
CREATE TABLE claims (
  item INTEGER NOT NULL REFERENCES items,
  annotator TEXT NOT NULL,
  until REAL NOT NULL,                 -- seconds since 1970
  PRIMARY KEY (item, annotator)
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""

LIVE_RANKINGS = """
SELECT rankings.id, prompt, responses, samples, ranks, annotator, note, saved_at
FROM rankings JOIN items ON items.id = rankings.item
WHERE undone_at IS NULL AND ranks IS NOT NULL ORDER BY rankings.id
"""


class DatabaseTrouble(UserError):
    """The database cannot be read or written now; the same request may succeed later."""


_TROUBLE = {
    sqlite3.SQLITE_BUSY: "is in use by another process, for more than {busy:g} seconds. Stop that "
    "process, or try again.",
    sqlite3.SQLITE_READONLY: "cannot be written: it or its folder is read-only. Change that, or "
    "work on a copy.",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full. Free some space; what was saved before is "
    "still there.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its folder is not there, or permission is denied.",
    sqlite3.SQLITE_PERM: "cannot be opened: permission denied.",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error ({error}).",
    sqlite3.SQLITE_CORRUPT: "is damaged ({error}). Take a copy of it that is whole.",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database. Name a file that scripts/label.py has made, "
    "or one that is not there yet.",
}


@contextmanager
def database_errors(file: Path) -> Iterator[None]:
    """Say what SQLite's errors mean to the user.

    Raises:
        DatabaseTrouble: for those that a user can do something about.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind
        if code not in _TROUBLE:
            raise
        said = _TROUBLE[code].format(busy=BUSY_SECONDS, error=error)
        raise DatabaseTrouble(f"{file} {said}") from error


def is_database(file: Path) -> bool:
    """Say whether a file is one of SQLite's, whatever its name."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(MAGIC)) == MAGIC


def connect(file: Path, mode: str) -> sqlite3.Connection:
    """Open a database; whether it is one of ours is for `check_layout`.

    Args:
        file: to open.
        mode: SQLite's: `ro`, `rw`, or `rwc`, which makes it where it is not there.
    """
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun by hand
        check_same_thread=False,
    )


def check_layout(database: sqlite3.Connection, file: Path) -> None:
    """Check that a database holds rankings in the layout that is read here.

    Raises:
        UserError: if it is something else, or of another version.
    """
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise UserError(f"{file} is a database, but not one that scripts/label.py has made.")
    if version != VERSION:
        raise UserError(
            f"{file} has layout {version}, and this version of hydralign reads layout {VERSION}. "
            "Use the version that made it; its `scripts/label.py export` writes JSONL, which "
            "every version reads."
        )


def read_rankings(file: Path) -> list[Row]:
    """Read the rankings that stand: a row each, without those skipped or undone.

    Annotator and time are among the values, so that they count in the fingerprint of the data.

    Raises:
        UserError: if the file is not such a database, or cannot be read now.
    """
    with opened_for_reading(file) as database:
        found = database.execute(LIVE_RANKINGS).fetchall()
    rows = []
    for number, prompt, responses, samples, ranks, annotator, note, saved_at in found:
        values = {
            "prompt": json.loads(prompt),
            "responses": json.loads(responses),
            "ranks": json.loads(ranks),
            "annotator": annotator,
            "saved_at": saved_at,
        }
        values |= {"note": note} if note else {}
        values |= {"samples": json.loads(samples)} if samples else {}
        rows.append(Row(number, values))
    return rows


@contextmanager
def opened_for_reading(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that nobody needs to be able to write.

    Raises:
        UserError: if the file is not such a database, or cannot be read now.
    """
    with database_errors(file), closing(_readable(file)) as database:
        check_layout(database, file)
        yield database


def _readable(file: Path) -> sqlite3.Connection:
    """Open for reading. Where its folder is read-only SQLite must be told that nobody writes."""
    database = connect(file, "ro")
    try:
        database.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        beside = file.with_name(f"{file.name}-wal")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or beside.exists():
            raise
        database.close()
        database = connect(file, "ro&immutable=1")
    return database
