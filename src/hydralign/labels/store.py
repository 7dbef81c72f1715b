"""Items and rankings in one SQLite file: handing out, saving, undoing. Safe from many threads.

A ranking is on the disk before `save` returns, and is in the file once, however often it is sent.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from hydralign.data.label_database import SCHEMA, SUFFIX, check_layout, connect, database_errors
from hydralign.errors import UserError
from hydralign.labels.items import AnotherItem, Item, Shown, Submission, check_name
from hydralign.labels.order import chosen_for_several, random_priority
from hydralign.labels.samples import Sample, prompt_json

CLAIM_SECONDS = 1800.0
"""How long an item that was handed out is kept from others."""

_RANKED_BY = """EXISTS (
    SELECT 1 FROM rankings WHERE item = {item} AND annotator = :annotator AND undone_at IS NULL)"""
_CLAIMED = f"""
SELECT item FROM claims
WHERE annotator = :annotator AND until > :now AND NOT {_RANKED_BY.format(item="claims.item")}
ORDER BY until DESC LIMIT 1
"""
_NEXT = f"""
SELECT id FROM items
WHERE NOT {_RANKED_BY.format(item="items.id")} AND wanted > (
    SELECT count(*) FROM rankings
    WHERE item = items.id AND ranks IS NOT NULL AND undone_at IS NULL
  ) + (
    SELECT count(*) FROM claims
    WHERE item = items.id AND annotator <> :annotator AND until > :now
  )
ORDER BY priority, id LIMIT 1
"""
_SAVE = """
INSERT INTO rankings (token, item, annotator, ranks, note, shown, seconds, saved_at)
VALUES (:token, :item, :annotator, :ranks, :note, :shown, :seconds, :saved_at)
"""
_ITEM = "SELECT id, content, prompt, responses FROM items"


class LabelStore:
    """The items and rankings of one file."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        """Open a file, and make it where it is not there.

        Args:
            file: ends in `.sqlite`.
            now: the clock, in seconds since 1970.

        Raises:
            UserError: if it is not one of ours, or cannot be written.
        """
        if file.suffix != SUFFIX:
            raise UserError(f"{file}: the name of a file of rankings ends in {SUFFIX}.")
        self.file = file
        self._now = now
        self._lock = Lock()
        with database_errors(file):
            self._database = connect(file, "rwc")
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def _prepare(self) -> None:
        database = self._database
        if not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        check_layout(database, self.file)
        database.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait
        database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
        database.execute("PRAGMA foreign_keys = ON")
        # The first writing: a file that nobody may write is noticed now.
        database.execute("DELETE FROM claims WHERE until <= ?", [self._now()])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(
        self, samples: Sequence[Sample], seed: int = 0, overlap: float = 0.0, annotators: int = 2
    ) -> int:
        """Take in samples, all or none; those that are there already stay as they are.

        Args:
            samples: to take in.
            seed: of the random order in which they are handed out.
            overlap: share of the new ones that several annotators are to rank, 0 to 1.
            annotators: how many are to rank each of those.

        Returns:
            how many are new.

        Raises:
            UserError: if the share is no share, or there are no annotators.
        """
        with self._writing() as database:
            known = _contents(database)
            new = {sample.content: sample for sample in samples if sample.content not in known}
            wanted = chosen_for_several(list(new), overlap, annotators)
            database.executemany(
                "INSERT INTO items (content, prompt, responses, samples, priority, wanted) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        content,
                        json.dumps(prompt_json(sample.prompt)),
                        json.dumps(sample.responses),
                        None if sample.samples is None else json.dumps(sample.samples),
                        random_priority(content, seed),
                        wanted[content],
                    )
                    for content, sample in new.items()
                ],
            )
        return len(new)

    def items(self) -> list[Item]:
        """Return all items."""
        with self.reading() as database:
            return [Item(*_decoded(row)) for row in database.execute(_ITEM)]

    def share_out(self, overlap: float, annotators: int) -> None:
        """Choose anew, of all items, those that several annotators are to rank.

        Args:
            overlap: their share, 0 to 1.
            annotators: how many are to rank each of them.
        """
        with self._writing() as database:
            wanted = chosen_for_several(list(_contents(database)), overlap, annotators)
            database.executemany(
                "UPDATE items SET wanted = ? WHERE content = ?",
                [(number, content) for content, number in wanted.items()],
            )

    def put_in_order(self, priorities: Mapping[int, float]) -> None:
        """Hand items out by ascending priority from now on."""
        with self._writing() as database:
            database.executemany(
                "UPDATE items SET priority = ? WHERE id = ?",
                [(priority, item) for item, priority in priorities.items()],
            )

    def next(self, annotator: str) -> Shown | None:
        """Hand out an item, and keep it from others for a while.

        An annotator who asks again before saving gets the same one.

        Returns:
            the item, or None if nothing is left for this annotator.

        Raises:
            UserError: if the annotator has no name.
        """
        asked = {"annotator": check_name(annotator), "now": self._now()}
        with self._writing() as database:
            found = database.execute(_CLAIMED, asked).fetchone()
            found = found or database.execute(_NEXT, asked).fetchone()
            if found is None:
                return None
            self._claim(found[0], annotator)
            return self._item(found[0]).shown_to(annotator)

    def save(self, submission: Submission) -> int:
        """Save a ranking, once: sent again with the same token it is known again.

        Returns:
            its number, which `undo` takes.

        Raises:
            AnotherItem: if the item that was shown is not the one of that number here.
            UserError: if there is no such item, the ranks do not fit it, the annotator has ranked
                it before, or the token is that of another ranking.
        """
        token = submission.token or uuid.uuid4().hex
        item, annotator = submission.item, submission.annotator
        with self._writing() as database:
            found = self._item(item, submission.content)
            same = database.execute(
                "SELECT id, item, annotator FROM rankings WHERE token = ?", [token]
            ).fetchone()
            if same is not None:
                if same[1:] != (item, annotator):
                    raise UserError("The token is that of another ranking. Make up a new one.")
                return int(same[0])
            ranks = found.ranks_of(submission)
            if self._has_ranked(annotator, item):
                raise UserError(f"{annotator} has ranked item {item} already. Undo that first.")
            number = database.execute(
                _SAVE,
                {
                    "token": token,
                    "item": item,
                    "annotator": annotator,
                    "ranks": None if ranks is None else json.dumps(ranks),
                    "note": submission.note,
                    "shown": json.dumps(found.order_for(annotator)),
                    "seconds": submission.seconds,
                    "saved_at": self._time(),
                },
            ).lastrowid
            database.execute(
                "DELETE FROM claims WHERE item = ? AND annotator = ?", [item, annotator]
            )
        return number or 0

    def undo(self, annotator: str, ranking: int) -> Shown:
        """Take a ranking back and hand its item out again. Asked twice, it is undone once.

        Raises:
            UserError: if the annotator has made no such ranking, or made one anew since.
        """
        with self._writing() as database:
            found = database.execute(
                "SELECT item, ranks, note FROM rankings WHERE id = ? AND annotator = ?",
                [ranking, annotator],
            ).fetchone()
            if found is None:
                raise UserError(f"{annotator!r} has made no ranking of number {ranking}.")
            item, ranks, note = found
            database.execute(
                "UPDATE rankings SET undone_at = ? WHERE id = ? AND undone_at IS NULL",
                [self._time(), ranking],
            )
            if self._has_ranked(annotator, item):
                raise UserError(f"Item {item} has been ranked anew since that was undone.")
            self._claim(item, annotator)
            return self._item(item).shown_to(annotator, json.loads(ranks or "null"), note)

    def last(self, annotator: str) -> int | None:
        """Return the number of an annotator's last ranking that stands, skips included."""
        with self.reading() as database:
            (number,) = database.execute(
                "SELECT max(id) FROM rankings WHERE annotator = ? AND undone_at IS NULL",
                [annotator],
            ).fetchone()
        return None if number is None else int(number)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read from the database, one thread at a time."""
        with self._lock, database_errors(self.file):
            yield self._database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Change the database: all that is inside, or nothing."""
        with self.reading() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    def _item(self, number: int, content: str = "") -> Item:
        row = self._database.execute(f"{_ITEM} WHERE id = ?", [number]).fetchone()
        if content and (row is None or row[1] != content):
            raise AnotherItem(f"Item {number} of {self.file.name} is another one than was ranked.")
        if row is None:
            raise UserError(f"There is no item {number}.")
        return Item(*_decoded(row))

    def _has_ranked(self, annotator: str, item: int) -> bool:
        asked = {"annotator": annotator, "item": item}
        (found,) = self._database.execute(f"SELECT {_RANKED_BY.format(item=':item')}", asked)
        return bool(found[0])

    def _claim(self, item: int, annotator: str) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)",
            [item, annotator, self._now() + CLAIM_SECONDS],
        )

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")


def _contents(database: sqlite3.Connection) -> set[str]:
    return {content for (content,) in database.execute("SELECT content FROM items")}


def _decoded(row: tuple[int, str, str, str]) -> tuple[int, str, object, list[str]]:
    number, content, prompt, responses = row
    return number, content, json.loads(prompt), json.loads(responses)
