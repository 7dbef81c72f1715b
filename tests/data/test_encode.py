import logging

import pytest

from hydralign.data.encode import encode_records
from hydralign.data.encoder import Encoder
from hydralign.data.examples import ComparisonExample, DemonstrationExample, Pair, PromptExample
from hydralign.data.records import Comparison, Demonstration, Prompt
from hydralign.errors import UserError

BOS, EOS = 0, 1


@pytest.fixture
def encoder(letter_tokenizer):
    return Encoder(
        letter_tokenizer(),
        "plain",
        EOS,
        max_prompt_tokens=3,
        max_response_tokens=3,
        max_comparison_tokens=4,
    )


def test_a_long_demonstration_is_cut_and_does_not_stop_there(encoder, caplog):
    records = [Demonstration("a", "bc"), Demonstration("a", "bcd")]
    with caplog.at_level(logging.INFO):
        examples = encode_records(records, encoder, origin="x train")
    assert examples == [
        DemonstrationExample([BOS, 2], [3, 4, EOS]),
        DemonstrationExample([BOS, 2], [3, 4, 5]),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "x train: 1 responses cut to max_response_tokens"
    ]


def test_a_long_response_takes_no_part_in_its_comparison(encoder, caplog):
    record = Comparison("", ("abc", "abcd", "b"), (2, 0, 1), (1.0, 3.0, 2.0))
    with caplog.at_level(logging.INFO):
        examples = encode_records([record], encoder, origin="x train")
    assert examples == [
        ComparisonExample([BOS], [[2, 3, 4, EOS], [3, EOS]], [Pair(1, 0, 1.0, 1.0)])
    ]
    assert "1 compared responses of over 4 tokens left out" in caplog.text


def test_comparisons_without_pairs_are_dropped_and_counted(encoder, caplog):
    kept = Comparison("", ("a", "b"), (0, 1), (2.0, 0.0))
    close = Comparison("", ("a", "b"), (0, 1), (1.5, 1.0))
    too_long = Comparison("", ("a", "bcde"), (0, 1))
    only_a_tie = Comparison("", ("a", "b", "cdef"), (1, 1, 0))
    with caplog.at_level(logging.INFO):
        examples = encode_records(
            [close, kept, too_long, only_a_tie], encoder, origin="x", rating_gap=1.0
        )
    assert [example.responses for example in examples] == [[[2, EOS], [3, EOS]]]
    assert "x: 3 comparisons dropped: no pair of responses left" in caplog.text


def test_the_limit_of_demonstrations_holds_for_comparisons_that_have_none(letter_tokenizer):
    encoder = Encoder(letter_tokenizer(), "plain", EOS, 9, max_response_tokens=2)
    record = Comparison("", ("a", "b", "cd"), (0, 1, 2))
    (example,) = encode_records([record], encoder, origin="x")
    assert example.responses == [[2, EOS], [3, EOS]]


def test_prompts_keep_text_and_answer(encoder):
    examples = encode_records([Prompt("ab", "4"), Prompt("c")], encoder, origin="x")
    assert examples == [
        PromptExample([BOS, 2, 3], "ab", "4"),
        PromptExample([BOS, 4], "c", None),
    ]
    assert [example.length for example in examples] == [3, 2]


def test_too_many_long_prompts_stop_the_run_naming_their_rows(encoder):
    records = [Prompt("abcd", row=17), Prompt("a", row=18)]
    with pytest.raises(UserError) as caught:
        encode_records(records, encoder, origin="x train")
    assert str(caught.value).startswith(
        "x train: 1 of 2 rows cannot be used.\n"
        "  row 17: the prompt has more than max_prompt_tokens=3 tokens\n"
    )
    assert len(encode_records(records, encoder, origin="x", max_bad_rows=0.5)) == 1


def test_nothing_left_is_never_silent(encoder):
    record = Comparison("", ("a", "b"), (0, 1), (1.5, 1.0))
    with pytest.raises(UserError) as caught:
        encode_records([record], encoder, origin="x", rating_gap=2.0)
    assert str(caught.value) == (
        "x: nothing is left of 1 records (1 comparisons dropped: no pair of responses left)."
    )
    assert encode_records([], encoder, origin="x") == []
