"""Rankings as rows of a data set: what they become, and what tells one state from another."""

import sqlite3

import pytest

from hydralign.data.datasets import load_records
from hydralign.data.label_database import connect, database_errors, read_rankings
from hydralign.data.own_records import comparison, prompt
from hydralign.data.sources import content_hash, load_rows
from hydralign.errors import UserError
from hydralign.labels.items import Submission
from hydralign.labels.samples import Sample
from hydralign.labels.store import LabelStore


@pytest.fixture
def store(tmp_path):
    made = LabelStore(tmp_path / "labels.sqlite", lambda: 1_800_000_000.0)
    made.add([Sample(f"p{i}", ("a", "b", "c")) for i in range(6)])
    yield made
    made.close()


def rank(store, name, ranks):
    return store.save(Submission(store.next(name).item, name, ranks))


def records(store, make, kind):
    return load_records(
        kind,
        name="labels",
        source=lambda: load_rows(str(store.file)),
        mappings={kind: make},
        fractions={"train": 1.0},
        max_bad_rows=0.5,
    )


def test_rankings_become_comparisons_ties_included(store, caplog):
    store.share_out(1.0, 2)
    for name, ranks in (("Ann", (0, 1, 1)), ("Ann", None), ("Ann", (5, 5, 5)), ("Bea", (2, 1, 0))):
        rank(store, name, ranks)
    store.undo("Ann", rank(store, "Ann", (0, 1, 2)))
    found = records(store, comparison, "comparison").train
    assert [sorted(one.ranks) for one in found] == [[0, 1, 1], [0, 1, 2]]
    assert "1 of 3 rows cannot be used.\n  row 3: only ties" in caplog.text
    assert len(records(store, prompt, "prompt").train) == 3


def test_no_ranking_yet(store):
    with pytest.raises(UserError, match=r"labels\.sqlite has no rows"):
        load_rows(str(store.file))


def test_the_content_is_what_was_ranked_by_whom_and_when(store):
    before = content_hash(store.file)
    number = rank(store, "Ann", (0, 1, 2))  # stands beside the file: it is not closed
    ranked = content_hash(store.file)
    assert ranked != before
    store.next("Ann")
    store.put_in_order({1: 3.0})
    assert content_hash(store.file) == ranked  # nothing that counts has changed
    store.undo("Ann", number)
    assert content_hash(store.file) == before
    rank(store, "Ann", (0, 1, 2))
    assert content_hash(store.file) != ranked  # another number: ranked anew
    with sqlite3.connect(store.file) as database:
        database.execute("UPDATE rankings SET annotator = 'Bea'")
    database.close()
    assert content_hash(store.file) not in (before, ranked)


def test_of_any_other_file_the_content_is_its_bytes(tmp_path):
    (tmp_path / "x.jsonl").write_text("abc")
    # SHA-256 of "abc", from FIPS 180-2.
    assert content_hash(tmp_path / "x.jsonl") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_folder_that_cannot_be_written_is_read_all_the_same(store, monkeypatch):
    rank(store, "Ann", (0, 1, 2))
    store.close()

    class Refused:
        """As SQLite is where it cannot make the files that it wants beside a database."""

        def execute(self, _):
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error

        def close(self):
            pass

    monkeypatch.setattr(
        "hydralign.data.label_database.connect",
        lambda file, mode: Refused() if mode == "ro" else connect(file, mode),
    )
    assert len(read_rankings(store.file)) == 1


def test_what_is_no_mistake_of_the_user_stays_what_it_is(tmp_path):
    with pytest.raises(sqlite3.OperationalError), database_errors(tmp_path):
        sqlite3.connect(":memory:").execute("SELECT nonsense")
