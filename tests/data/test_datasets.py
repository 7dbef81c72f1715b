import logging

import pytest

from hydralign.data import hh_rlhf, own_records
from hydralign.data.datasets import load_records
from hydralign.data.report import RowReport
from hydralign.data.rows import Row
from hydralign.data.splits import HashSplitter, stable_hash
from hydralign.data.templates import dialogue_text
from hydralign.errors import UserError

FRACTIONS = {"train": 0.6, "validation": 0.1, "test": 0.3}
OWN = {"demonstration": own_records.demonstration, "prompt": own_records.prompt}


def load(kind, values, mappings=OWN, fractions=FRACTIONS, **options):
    rows = [Row(number, value) for number, value in enumerate(values, start=1)]
    return load_records(
        kind, name="mine", source=lambda: rows, mappings=mappings, fractions=fractions, **options
    )


def test_the_hash_is_the_same_everywhere():
    # sha256("abc") begins ba7816bf8f01cfea (FIPS 180-2, appendix B.1).
    assert stable_hash("abc") == 0xBA7816BF8F01CFEA


def test_a_key_is_placed_by_its_hash():
    # "abc" lies at 0xba78... / 2**64 = 0.72839...
    assert HashSplitter({"train": 0.2, "validation": 0.1, "test": 0.7})("abc") == "validation"
    assert HashSplitter({"train": 0.2, "validation": 0.0, "test": 0.8})("abc") == "test"
    assert HashSplitter({"train": 0.3, "validation": 0.1, "test": 0.6})("abc") == "train"


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ({"train": 0.9, "dev": 0.1}, "data.splits has ['dev']"),
        ({"train": 0.5, "test": 0.4}, "add up to 1"),
        ({"train": 1.5, "test": -0.5}, "at least 0"),
    ],
)
def test_impossible_splits_are_refused(fractions, words):
    with pytest.raises(UserError, match="data.splits") as caught:
        HashSplitter(fractions)
    assert words in str(caught.value)


def test_a_prompt_is_in_one_split_whatever_the_kind_of_record():
    dialogues = [f"\n\nHuman: question {i % 40}\n\nAssistant: " for i in range(120)]
    values = [{"chosen": d + f"good {i}", "rejected": d + "bad"} for i, d in enumerate(dialogues)]
    mappings = {
        "demonstration": hh_rlhf.demonstration,
        "comparison": hh_rlhf.comparison,
        "prompt": hh_rlhf.prompt,
    }
    where = {}
    for kind in mappings:
        splits = load(kind, values, mappings)
        assert sum(len(part) for _, part in splits.items()) == 120
        for name, part in splits.items():
            assert part, name
            for record in part:
                assert where.setdefault(dialogue_text(record.prompt), name) == name
    assert len(where) == 40


def test_a_kind_that_is_not_offered_fails_before_anything_is_read():
    def source():
        raise AssertionError("was read")

    with pytest.raises(UserError) as caught:
        load_records("comparison", name="mine", source=source, mappings=OWN, fractions=FRACTIONS)
    assert str(caught.value).splitlines() == [
        "data=mine offers no comparison records (wanted for learning from preferences, as "
        "stage=reward).",
        "It offers",
        "  demonstration, for supervised fine-tuning, as stage=sft",
        "  prompt, for reinforcement learning, as stage=ppo",
    ]


def test_a_misspelt_kind_in_the_config_lists_the_kinds():
    with pytest.raises(UserError, match="records.prompts is no kind of record") as caught:
        load("prompt", [], {"prompts": own_records.prompt})
    assert "demonstration, comparison, prompt" in str(caught.value)


def test_bad_rows_within_the_limit_are_told_once(caplog):
    values = [{"prompt": f"p{i}"} for i in range(99)] + [{"prompt": ""}]
    with caplog.at_level(logging.INFO):
        splits = load("prompt", values, origin="some/file.jsonl")
    assert sum(len(part) for _, part in splits.items()) == 99
    assert [record.getMessage() for record in caplog.records] == [
        "some/file.jsonl: 1 of 100 rows cannot be used.\n  row 100: empty prompt"
    ]


def test_too_many_bad_rows_stop_the_run():
    values = [{"prompt": f"p{i}"} for i in range(94)] + [{"prompt": ""}] * 5 + [{"x": 1}]
    with pytest.raises(UserError) as caught:
        load("prompt", values, origin="some/file.jsonl")
    assert str(caught.value).splitlines() == [
        "some/file.jsonl: 6 of 100 rows cannot be used.",
        "  row 95: empty prompt",
        "  row 96: empty prompt",
        "  row 97: empty prompt",
        "  and 2 more: empty prompt",
        "  and 1 more: no prompt in columns x; wanted prompt, or the columns of a demonstration "
        "or a comparison",
        "That is more than data.max_bad_rows=0.05 allows. "
        "Mend the rows or their mapping, or raise the limit.",
    ]
    assert load("prompt", values, max_bad_rows=0.06).train


def test_nothing_to_train_on_is_never_silent(caplog):
    with pytest.raises(UserError, match="the train split has no prompt of the 1 rows"):
        load("prompt", [{"prompt": "abc"}], fractions={"train": 0.2, "test": 0.8})
    load("prompt", [{"prompt": "abc"}], fractions={"train": 0.9, "validation": 0.1})
    assert "mine: the validation split has no prompt of the 1 rows." in caplog.text


def test_many_different_reasons_are_summed_up():
    report = RowReport("x")
    for row in range(11):
        report.bad(row, f"reason {row}")
    assert report.summary(20).splitlines()[-1] == "  and 5 more for other reasons"
