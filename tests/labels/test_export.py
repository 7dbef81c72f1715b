import json
import sqlite3

import pytest

from hydralign.data.own_records import comparison
from hydralign.data.records import Message
from hydralign.data.report import RowReport
from hydralign.data.rows import Row
from hydralign.data.sources import load_rows
from hydralign.errors import UserError
from hydralign.labels.export import FORMS, export

ROWS = [
    Row(1, {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 0, 1], "annotator": "Ann"}),
    Row(
        4,
        {
            "prompt": [{"role": "user", "content": "q"}],
            "responses": ["d", "é"],
            "ranks": [0, 1],
            "annotator": "Bea",
        },
    ),
]


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_whole_rankings(tmp_path):
    assert export(ROWS, tmp_path / "r.jsonl", "ranks") == 2
    assert lines(tmp_path / "r.jsonl") == [row.values for row in ROWS]


@pytest.mark.parametrize("name", ["l.sqlite", "new.sqlite", "link.jsonl"])
def test_no_database_is_written_over(tmp_path, name):
    source = tmp_path / "l.sqlite"
    with sqlite3.connect(source) as database:
        database.execute("CREATE TABLE songs (name)")
    database.close()
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(UserError, match=rf"{name} is a database, or has the name of one"):
        export(ROWS, tmp_path / name, "ranks")
    assert source.read_bytes() == before


def test_a_folder_is_made_where_it_can_be(tmp_path):
    assert export(ROWS, tmp_path / "a" / "b" / "r.jsonl", "ranks") == 2
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write .*: a file stands where .* file: --to"):
        export(ROWS, tmp_path / "file" / "r.jsonl", "ranks")


def test_pairs_leave_ties_out(tmp_path):
    assert export(ROWS, tmp_path / "p.jsonl", "pairs") == 3
    first, second, third = lines(tmp_path / "p.jsonl")
    assert first == {"prompt": "p", "chosen": "b", "rejected": "a", "annotator": "Ann"}
    assert second == {"prompt": "p", "chosen": "b", "rejected": "c", "annotator": "Ann"}
    assert third == {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "d"}],
        "rejected": [{"role": "assistant", "content": "é"}],
        "annotator": "Bea",
    }


def test_messages_wherever_there_is_a_text(tmp_path):
    export(ROWS, tmp_path / "m.jsonl", "messages")
    assert lines(tmp_path / "m.jsonl")[0] == {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "a"}],
        "annotator": "Ann",
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_by_our_own_file_format(tmp_path, form):
    export(ROWS, tmp_path / "x.jsonl", form)
    rows, report = load_rows(str(tmp_path / "x.jsonl")), RowReport("x")
    found = comparison(rows, lambda key: "train", report).train
    assert report.bad_rows == []
    best = [one.responses[one.ranks.index(0.0)] for one in found]
    assert best == (["b", "d"] if form == "ranks" else ["b", "b", "d"])
    assert found[-1].prompt == (Message("user", "q"),)
