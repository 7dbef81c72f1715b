import pytest

from hydralign.data import alpaca, hh_rlhf, own_records
from hydralign.data.records import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
)
from hydralign.data.report import RowReport
from hydralign.data.rows import Row

USER, ASSISTANT = "user", "assistant"


def one(mapping, values):
    """Return the only record, or the only reason."""
    report = RowReport("x")
    splits = mapping([Row(7, values)], lambda _: "train", report)
    if report.bad_rows:
        ((row, reason),) = report.bad_rows
        assert (row, splits.train) == (7, [])
        return reason
    (record,) = splits.train
    assert record.row == 7
    return record


def test_alpaca():
    values = {"instruction": " Add. ", "input": "1 and 2", "output": "3\n"}
    assert one(alpaca.demonstration, values) == Demonstration("Add.\n\n1 and 2", "3")
    assert one(alpaca.prompt, values | {"input": ""}) == Prompt("Add.")
    assert one(alpaca.prompt, values | {"instruction": " "}) == "empty instruction"
    assert one(alpaca.demonstration, values | {"output": ""}) == "empty response"
    del values["output"]
    assert one(alpaca.demonstration, values) == "no column 'output'; found instruction, input"


HISTORY = "\n\nHuman: Hi\n\nAssistant: Hello: what\n\nis it?\n\nHuman: A joke"
TURNS = (Message(USER, "Hi"), Message(ASSISTANT, "Hello: what\n\nis it?"), Message(USER, "A joke"))


def test_hh_rlhf_splits_at_the_last_reply():
    values = {
        "chosen": HISTORY + "\n\nAssistant: Knock knock.",
        "rejected": HISTORY + "\n\nAssistant: No.",
    }
    assert one(hh_rlhf.comparison, values) == Comparison(TURNS, ("Knock knock.", "No."), (0, 1))
    assert one(hh_rlhf.demonstration, values) == Demonstration(TURNS, "Knock knock.")
    assert one(hh_rlhf.prompt, values) == Prompt(TURNS)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a", "\n\nHuman: a", "no 'Assistant:' in the dialogue"),
        (
            "\n\nHuman: a\n\nAssistant: b",
            "\n\nHuman: c\n\nAssistant: d",
            "chosen and rejected differ before their last reply",
        ),
        (
            "\n\nHuman: a\n\nAssistant: b",
            "\n\nHuman: a\n\nAssistant: b ",
            "chosen and rejected are the same",
        ),
        ("\n\nHuman: a\n\nAssistant:", "\n\nHuman: a\n\nAssistant: b", "empty response"),
        (
            "\n\nAssistant: b",
            "\n\nAssistant: c",
            "the dialogue does not begin with 'Human:' or 'Assistant:'",
        ),
    ],
)
def test_hh_rlhf_says_what_is_wrong(chosen, rejected, reason):
    assert one(hh_rlhf.comparison, {"chosen": chosen, "rejected": rejected}) == reason


def test_own_records():
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert one(own_records.demonstration, {"prompt": "a", "response": " b"}) == Demonstration(
        "a", " b"
    )
    assert one(own_records.prompt, {"prompt": turns, "answer": None}) == Prompt(
        (Message("system", "Be kind."), Message("user", "Hi"))
    )
    assert one(own_records.prompt, {"prompt": "a", "answer": "4"}) == Prompt("a", "4")
    row = {"prompt": "a", "responses": ["b", "c", "d"]}
    assert one(own_records.comparison, row | {"ranks": [2, 1, 1]}) == Comparison(
        "a", ("b", "c", "d"), (2, 1, 1)
    )
    assert one(own_records.comparison, row | {"ratings": [0.5, 3, -1]}) == Comparison(
        "a", ("b", "c", "d"), (1, 0, 2), (0.5, 3, -1)
    )


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("demonstration", {"prompt": "a"}, "no column 'response'; found prompt"),
        (
            "demonstration",
            {"prompt": 3, "response": "b"},
            "column 'prompt' holds int, wanted text",
        ),
        (
            "prompt",
            {"prompt": ["a"]},
            "column 'prompt' holds a list, but not of messages with role and content",
        ),
        ("prompt", {"prompt": [{"role": "user"}]}, "no column 'content'; found role"),
        (
            "comparison",
            {"prompt": "a", "responses": "bc", "ranks": [0, 1]},
            "column 'responses' holds no list of texts",
        ),
        (
            "comparison",
            {"prompt": "a", "responses": ["b", "c"], "ranks": ["0", "1"]},
            "column 'ranks' holds no list of numbers",
        ),
        (
            "comparison",
            {"prompt": "a", "responses": ["b", "c"]},
            "no column 'ranks'; found prompt, responses",
        ),
        (
            "comparison",
            {"prompt": "a", "responses": ["b", "c"], "ratings": [1, float("nan")]},
            "column 'ratings' holds no list of numbers",
        ),
    ],
)
def test_own_records_say_what_is_wrong(kind, values, reason):
    assert one(getattr(own_records, kind), values) == reason
