"""Tokens kept on disk: the same as those made anew, and never those of something else."""

import logging
from dataclasses import replace

import pytest

from hydralign.data import encode, token_cache
from hydralign.data.encode import encode_records
from hydralign.data.encoder import Encoder
from hydralign.data.examples import ComparisonExample, DemonstrationExample, Pair, PromptExample
from hydralign.data.records import Comparison, Demonstration, Message, Prompt
from hydralign.data.token_cache import key_of
from hydralign.errors import UserError

BOS, EOS = 0, 1
COMPARISONS = [
    Comparison("a", ("b", "c", "defgh"), (1, 1, 0), row=1),  # only a tie is left
    Comparison("a", ("b", "cd", "e"), (1, 0, 1), row=2),
    Comparison("abcd", ("b", "c"), (0, 1), row=3),  # the prompt is too long
]
EXAMPLES = {
    "comparison": (
        COMPARISONS,
        [
            ComparisonExample(
                [BOS, 2],
                [[3, EOS], [4, 5, EOS], [6, EOS]],
                [Pair(1, 0, 1.0), Pair(0, 2, 0.5), Pair(1, 2, 1.0)],
            )
        ],
    ),
    "demonstration": (
        [Demonstration("a", "bcde"), Demonstration("", "b"), Demonstration("abcd", "b", row=3)],
        [DemonstrationExample([BOS, 2], [3, 4, 5]), DemonstrationExample([BOS], [3, EOS])],
    ),
    "prompt": (
        [Prompt("ab", "4"), Prompt("c"), Prompt("abcd", row=3)],
        [PromptExample([BOS, 2, 3], "ab", "4"), PromptExample([BOS, 4], "c", None)],
    ),
}


@pytest.fixture
def encoder(letter_tokenizer):
    return Encoder(letter_tokenizer(), "plain", EOS, 3, 3, max_comparison_tokens=4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Keeps tokens of however few records there."""
    monkeypatch.setenv("HYDRALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(token_cache, "WORTH", 1)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def made(monkeypatch):
    """Counts how often records were tokenised."""
    calls, make = [], encode._encoded
    monkeypatch.setattr(encode, "_encoded", lambda *given: calls.append(1) or make(*given))
    return calls


def told(records, encoder, caplog):
    """Examples, and what was said but for the line that tells of the cache."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        examples = encode_records(records, encoder, origin="x", max_bad_rows=0.5)
    said = [record.getMessage() for record in caplog.records]
    return examples, [line for line in said if "taken from" not in line]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_cache_gives_the_same_examples_and_says_what_was_lost(
    kind, encoder, folder, made, caplog
):
    records, expected = EXAMPLES[kind]
    first, said = told(records, encoder, caplog)
    second, said_again = told(records, encoder, caplog)
    assert first == second == expected
    assert said == said_again
    assert "row 3: the prompt has more than max_prompt_tokens=3 tokens" in said[-1]
    assert len(made) == 1
    (file,) = folder.iterdir()
    assert f"x: tokens of {len(expected)} records taken from {file}" in caplog.text
    assert type(second[0].prompt_ids[0]) is int


def test_the_limit_on_bad_rows_holds_for_a_cache_too(encoder, folder, made):
    for _ in range(2):
        with pytest.raises(UserError, match="1 of 3 rows cannot be used"):
            encode_records(COMPARISONS, encoder, origin="x", max_bad_rows=0.1)
    assert len(made) == 1


def test_few_records_leave_nothing_about(encoder, folder, made, monkeypatch):
    monkeypatch.setattr(token_cache, "WORTH", 4)
    for _ in range(2):
        encode_records(COMPARISONS, encoder, origin="x", max_bad_rows=0.5)
    assert len(made) == 2
    assert not folder.exists()


def test_all_that_decides_tokens_is_in_the_key(encoder, letter_tokenizer, monkeypatch):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    grown = letter_tokenizer()
    grown.add_tokens(["new"])
    one, two, three = COMPARISONS
    keys = [
        key_of(records, of, gap)
        for records, of, gap in (
            (COMPARISONS, encoder, 0.0),
            (COMPARISONS, encoder, 0.5),
            (COMPARISONS[:2], encoder, 0.0),
            ([two, one, three], encoder, 0.0),
            ([replace(one, row=9), two, three], encoder, 0.0),
            ([replace(one, prompt=(Message("user", "a"),)), two, three], encoder, 0.0),
            ([replace(one, ratings=(1.0, 1.0, 2.0)), two, three], encoder, 0.0),
            (COMPARISONS, replace(encoder, template="chat"), 0.0),
            (COMPARISONS, replace(encoder, stop_id=2), 0.0),
            (COMPARISONS, replace(encoder, max_prompt_tokens=4), 0.0),
            (COMPARISONS, replace(encoder, max_response_tokens=4), 0.0),
            (COMPARISONS, replace(encoder, max_comparison_tokens=5), 0.0),
            (COMPARISONS, replace(encoder, tokenizer=tokenizer), 0.0),
            (COMPARISONS, replace(encoder, tokenizer=grown), 0.0),
            (COMPARISONS, replace(encoder, tokenizer=letter_tokenizer(bos=None)), 0.0),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(COMPARISONS, replace(encoder, tokenizer=letter_tokenizer()), 0.0) == keys[0]
    monkeypatch.setattr(token_cache, "_code", lambda: "another version")
    assert key_of(COMPARISONS, encoder, 0.0) not in keys


def test_a_damaged_cache_is_made_anew(encoder, folder, made, caplog):
    whole, _ = told(COMPARISONS, encoder, caplog)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    middle = content.index(b"ids.npy") + 160  # within the tokens
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for times, damaged in enumerate((flipped, content[: len(content) // 2], b""), start=2):
        file.write_bytes(damaged)
        examples, said = told(COMPARISONS, encoder, caplog)
        assert examples == whole
        assert "is damaged" in said[0]
        assert len(made) == times
        assert file.stat().st_size == len(content)


def test_a_folder_that_takes_nothing_stops_no_run(encoder, folder, made, caplog):
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    examples, said = told(COMPARISONS, encoder, caplog)
    assert examples == EXAMPLES["comparison"][1]
    assert len(made) == 1
    assert sum("tokens cannot be kept for the next run" in line for line in said) == 1
    assert "1 of 3 rows cannot be used" in said[-1]


def test_a_disk_that_fills_up_leaves_no_half_file(encoder, folder, monkeypatch, caplog):
    def fill(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache.np, "savez", fill)
    examples, said = told(COMPARISONS, encoder, caplog)
    assert examples == EXAMPLES["comparison"][1]
    assert "No space left on device" in said[0]
    assert list(folder.iterdir()) == []


def test_what_was_not_used_for_longest_goes(encoder, folder, made, monkeypatch, caplog):
    records = [[replace(each, row=n) for each in COMPARISONS] for n in range(3)]
    told(records[0], encoder, caplog)
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(token_cache, "KEPT_BYTES", 2.5 * size)
    for n in (1, 0, 2):  # the first is used once more, so the second goes
        told(records[n], encoder, caplog)
    assert len(made) == 3
    kept = {file.stem for file in folder.iterdir()}
    assert kept == {key_of(records[n], encoder, 0.0) for n in (0, 2)}
