import json
import re
from pathlib import Path

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
        (
            "prompt",
            {"prompt": [{"role": "user"}]},
            "column 'prompt', message 1: no column 'content'; found role",
        ),
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
            "no column 'ranks', 'ratings' or 'scores'; found prompt, responses",
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


TURN = {"role": "user", "content": "a"}
REPLY = {"role": "assistant", "content": "b"}
PAIR = {"chosen": "b", "rejected": "c"}
RATED = [{"response": "c", "overall_score": 1}, {"response": "b", "overall_score": 2}]
SUMMARIES = {"info": {"post": "a"}, "summaries": [{"text": "c"}, {"text": "b"}], "choice": 1}
ASKED = (Message(USER, "a"),)


@pytest.mark.parametrize(
    ("values", "prompt", "k"),
    [
        ({"prompt": "a", "completion": "b"}, "a", 0),
        ({"prompt": [TURN], "completion": [REPLY]}, ASKED, 0),
        ({"prompt": [TURN], "completion": REPLY}, ASKED, 0),
        ({"messages": [TURN, REPLY]}, ASKED, 0),
        ({"messages": [TURN, REPLY], "prompt": "a", "prompt_id": "7"}, ASKED, 0),
        ({"conversations": [{"from": "human", "value": "a"}, REPLY]}, ASKED, 0),
        ({"prompt": "a", **PAIR}, "a", 2),
        ({"question": "a", **PAIR}, "a", 2),
        ({"conversations": [TURN], **PAIR}, ASKED, 2),
        ({"messages": [TURN], **PAIR}, ASKED, 2),
        ({"chosen": [TURN, REPLY], "rejected": [TURN, REPLY | {"content": "c"}]}, ASKED, 2),
        ({"instruction": "a", "completions": RATED}, "a", 2),
        (SUMMARIES, "POST: a\n\nTL;DR:", 2),
        # One row for a whole chain: what it says itself comes before what can be told from it.
        ({"prompt": "a", "response": "b", "responses": ["b", "c"], "ranks": [0, 1]}, "a", 2),
        ({"prompt": "a", "response": "b", "chosen": "c", "rejected": "d"}, "a", 2),
    ],
)
def test_every_form_serves_all_kinds_that_it_can_with_one_prompt(values, prompt, k):
    assert one(own_records.demonstration, values) == Demonstration(prompt, "b")
    assert one(own_records.prompt, values | {"answer": "4"}) == Prompt(prompt, "4")
    compared = one(own_records.comparison, values)
    if k:
        assert (compared.prompt, len(compared.responses)) == (prompt, k)
    else:
        assert compared.startswith("no comparison in columns ")


def test_a_dialogue_without_a_reply_yet_is_a_prompt():
    assert one(own_records.prompt, {"messages": [TURN]}) == Prompt(ASKED)


def test_a_tie_is_no_demonstration_but_has_a_prompt():
    values = {"prompt": "a", **PAIR, "tie": True}
    assert one(own_records.demonstration, values) == "only ties"
    assert one(own_records.prompt, values) == Prompt("a")


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        (
            "demonstration",
            {"text": "a", "label": 1},
            "no demonstration in columns text, label; wanted prompt + response (or completion), "
            "messages, conversations, chosen + rejected, instruction + completions, or info + "
            "summaries + choice",
        ),
        (
            "comparison",
            {"prompt": "a", "chosen": None},
            "no comparison in columns prompt, chosen; wanted prompt + responses + ranks (or "
            "ratings, scores), chosen + rejected (beside one of prompt, conversations, "
            "messages, question, instruction, if the prompt stands apart), instruction + "
            "completions, or info + summaries + choice",
        ),
        (
            "prompt",
            {},
            "no prompt in columns none; wanted prompt, or the columns of a demonstration or a "
            "comparison",
        ),
        (
            "demonstration",
            {"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1]},
            "no column 'response'; found prompt, responses, ranks",
        ),
        (
            "demonstration",
            {"prompt": "a", "completion": [TURN, REPLY]},
            "column 'completion' holds 2 messages, wanted one",
        ),
        (
            "demonstration",
            {"prompt": "a", "completion": [TURN]},
            "column 'completion' ends with role 'user', wanted assistant",
        ),
        (
            "demonstration",
            {"prompt": "a", "completion": 3},
            "column 'completion' holds int, wanted a list of messages",
        ),
        ("demonstration", {"completion": "b"}, "no column 'prompt'; found completion"),
        ("demonstration", {"messages": [TURN, REPLY | {"content": ""}]}, "empty response"),
    ],
)
def test_own_records_name_the_forms_that_a_row_might_have(kind, values, reason):
    assert one(getattr(own_records, kind), values) == reason


README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLES = {
    form: json.loads(row)
    for form, row in re.findall(r"^\| ([^|]+) \| `(\{.*\})` \|$", README, re.MULTILINE)
}
SERVES = {  # demonstration, comparison, prompt
    "prompt, response": (True, False, True),
    "prompt, completion": (True, False, True),
    "prompt alone": (False, False, True),
    "chat": (True, False, True),
    "ShareGPT": (True, False, True),
    "ranking": (False, True, True),
    "pair": (True, True, True),
    "pair, messages": (True, True, True),
    "pair, ShareGPT": (True, True, True),
    "pair without a prompt": (True, True, True),
    "UltraFeedback": (True, True, True),
    "OpenAI's summaries": (True, True, True),
}


def test_the_forms_in_the_readme_are_read_as_it_says():
    kinds = (own_records.demonstration, own_records.comparison, own_records.prompt)
    served = {
        form: tuple(not isinstance(one(mapping, row), str) for mapping in kinds)
        for form, row in EXAMPLES.items()
    }
    assert served == SERVES
    assert one(own_records.comparison, EXAMPLES["pair without a prompt"]) == Comparison(
        "The sky is", (" blue.", " a dog."), (0, 1)
    )
