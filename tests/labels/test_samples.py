import json

import pytest

from hydralign.data.records import BadRow, Message
from hydralign.errors import UserError
from hydralign.labels.samples import Sample, read_samples


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = {"prompt": "a", "responses": ["b", "c", "d"]}


def test_rows_of_the_sampler_are_read(tmp_path):
    turns = [{"role": "user", "content": "Hello"}]
    made = [{"policy": "runs/sft/artifact", "seed": 0}, {"policy": "runs/ppo/artifact", "seed": 0}]
    file = write(
        tmp_path / "s.jsonl", GOOD, {"prompt": turns, "responses": ["x", "y"], "samples": made}
    )
    (first, second), report = read_samples(file)
    assert first == Sample("a", ("b", "c", "d"))
    assert second == Sample((Message("user", "Hello"),), ("x", "y"), tuple(made))
    assert report.bad_rows == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "responses": ["b"]}, "1 response, wanted at least 2"),
        ({"prompt": "a", "responses": []}, "0 responses, wanted at least 2"),
        ({"prompt": "a", "responses": list("bcdefghijk")}, "10 responses, wanted at most 9"),
        ({"prompt": "a", "responses": ["b", "c", " b\n"]}, "two responses are the same"),
        ({"prompt": "a", "responses": ["b", " "]}, "empty response"),
        ({"prompt": " ", "responses": ["b", "c"]}, "empty prompt"),
        ({"prompt": "a", "responses": "bc"}, "no list of texts"),
        ({"prompt": "a"}, "no column 'responses'; found prompt"),
        ({"responses": ["b", "c"]}, "no column 'prompt'"),
        ({"prompt": "a\ud800", "responses": ["b", "c"]}, "not Unicode"),
        ({"prompt": "a", "responses": ["b", "\udfff"]}, "not Unicode"),
        (GOOD | {"samples": [{}, {}, {"policy": "\ud800"}]}, "not Unicode"),
        ({"prompt": [{"role": "robot", "content": ""}], "responses": ["b", "c"]}, "role 'robot'"),
        (GOOD | {"samples": [{}, {}]}, "3 responses but 2 samples"),
        (GOOD | {"samples": "sft"}, "column 'samples' holds no list of objects"),
        ({"prompt": "a", "responses": ["d", "b", "c"]}, "the same prompt and responses as row 1"),
    ],
)
def test_a_row_that_cannot_be_used_stops_all_and_is_named(tmp_path, row, reason):
    file = write(tmp_path / "s.jsonl", GOOD, row)
    with pytest.raises(UserError) as error:
        read_samples(file)
    assert str(error.value).startswith(f"{file}: 1 of 2 rows cannot be used.\n  row 2: ")
    assert reason in str(error.value)
    assert "nothing was taken in" in str(error.value)


def test_few_such_rows_are_left_out_and_told(tmp_path):
    file = write(tmp_path / "s.jsonl", GOOD, {"prompt": "a", "responses": ["b", "b"]})
    found, report = read_samples(file, max_bad_rows=0.5)
    assert found == [Sample("a", ("b", "c", "d"))]
    assert report.bad_rows == [(2, "two responses are the same")]


def test_the_same_responses_in_another_order_are_the_same_item():
    assert Sample("a", ("b", "c")).content == Sample("a", ("c", "b")).content
    assert Sample("a", ("b", "c")).content != Sample("a ", ("b", "c")).content


def test_equal_responses_are_no_sample():
    with pytest.raises(BadRow, match="the same"):
        Sample("a", ("b", "b"))
