import json
import sys
from types import SimpleNamespace

import pytest

from hydralign.data.sources import load_rows
from hydralign.errors import UserError

VALUES = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "é"}]


def write(folder, suffix):
    file = folder / f"rows{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(VALUES))
    elif suffix == ".jsonl":
        file.write_text("\n\n".join(json.dumps(values) for values in VALUES) + "\n")
    elif suffix == ".csv":
        file.write_text("prompt,response\na,b\nc,é\n", encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(VALUES), file)
    return str(file)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_values(tmp_path, suffix):
    rows = load_rows(write(tmp_path, suffix), columns=["response", "prompt"])
    assert [row.values for row in rows] == VALUES
    # The jsonl file has an empty line between its two.
    assert [row.number for row in rows] == ([1, 3] if suffix == ".jsonl" else [1, 2])


def message_of(path, **options):
    with pytest.raises(UserError) as caught:
        load_rows(str(path), **options)
    return str(caught.value)


def test_a_missing_file_is_named_with_where_it_was_sought(tmp_path):
    message = message_of(tmp_path / "gone.jsonl")
    assert "gone.jsonl: there is no such file (looked in " in message


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "rows.txt").write_text("x")
    message = message_of(tmp_path / "rows.txt")
    assert "cannot read suffix '.txt'" in message
    assert ".json, .jsonl, .csv, .parquet" in message
    assert "cannot read a folder" in message_of(tmp_path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_an_empty_file_is_never_an_empty_data_set(tmp_path, name):
    (tmp_path / name).write_text("")
    assert message_of(tmp_path / name).endswith(f"{name} has no rows.")


def test_a_line_that_is_not_json_is_named_and_shown(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": 1}\n\n{"prompt": \n')
    message = message_of(tmp_path / "a.jsonl")
    assert "a.jsonl, line 3 is not JSON" in message
    assert 'found:  {"prompt":' in message
    assert "wanted: one JSON object per line" in message


def test_json_that_is_no_list_of_objects_says_what_it_is(tmp_path):
    (tmp_path / "a.json").write_text('{"rows": []}')
    assert "holds dict, wanted a list of objects" in message_of(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('[{"a": 1}, 7]')
    assert "row 2 holds int, wanted an object" in message_of(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert "one JSON object per line must end in .jsonl" in message_of(tmp_path / "a.json")


def test_a_missing_column_shows_the_row_what_was_found_and_what_is_wanted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c"}\n')
    message = message_of(tmp_path / "a.jsonl", columns=["prompt", "response"])
    assert "a.jsonl, row 2: column response is missing" in message
    assert "found:  prompt\n" in message
    assert "wanted: prompt, response" in message


def test_a_short_csv_line_is_noticed(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response\na,b\nc\n")
    message = message_of(tmp_path / "a.csv", columns=["prompt", "response"])
    assert "row 2: column response is missing" in message


def test_bytes_that_are_no_text_are_no_traceback(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}')
    assert "is not UTF-8 text" in message_of(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    assert "is not a parquet file" in message_of(tmp_path / "a.parquet")


def test_rows_of_the_hub_are_numbered_from_one(monkeypatch):
    asked = []

    def load_dataset(path, split):
        asked.append((path, split))
        return VALUES

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    rows = load_rows("someone/something", split="test")
    assert [(row.number, row.values) for row in rows] == [(1, VALUES[0]), (2, VALUES[1])]
    assert asked == [("someone/something", "test")]


def test_an_unreachable_hub_names_the_way_without_it(monkeypatch):
    def load_dataset(path, split):
        raise ConnectionError("no route\nand much more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    message = message_of("someone/something")
    assert "'someone/something' from the hub: ConnectionError: no route\n" in message
    assert "data.path=FILE" in message
