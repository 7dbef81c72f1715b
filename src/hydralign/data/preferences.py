"""Pairs: a response that was chosen over another, in the forms that data sets have.

`chosen` and `rejected` are texts, messages, or whole dialogues. The prompt stands in a column of
its own (of `PROMPT_COLUMNS`), or is what both dialogues or texts begin with.
"""

import os.path
from typing import Any

from hydralign.data.alpaca import instruction_of
from hydralign.data.hh_rlhf import split_pair
from hydralign.data.messages import Turns, messages_of, split_reply, text_or_messages, with_system
from hydralign.data.records import BadRow, Comparison, PromptText, ranks_from_ratings
from hydralign.data.rows import holds, number_of, value_of

PROMPT_COLUMNS = ("prompt", "conversations", "messages", "question", "instruction")
"""Where the prompt of a pair may stand; the first that holds something counts."""

_RATING_COLUMNS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
)
_SIDES = ("chosen", "rejected")


def pair(values: dict[str, Any]) -> Comparison:
    """Make a comparison of `chosen` and `rejected`.

    It is a tie if a column `tie` says so, or if ratings of both are there and equal.

    Raises:
        BadRow: if the sides have no prompt in common, or are the same; if a rating contradicts
            them; if it is a tie, since no pair is left to rank then.
    """
    prompt, chosen, rejected = prompt_and_sides(values)
    if chosen.strip() == rejected.strip():
        raise BadRow("chosen and rejected are the same")
    ratings = _ratings(values)
    ranks = (0.0, 1.0) if ratings is None else ranks_from_ratings(ratings)
    return Comparison(prompt, (chosen, rejected), (0.0, 0.0) if _tie(values) else ranks, ratings)


def prompt_and_sides(values: dict[str, Any]) -> tuple[PromptText, str, str]:
    """Return the prompt, the chosen and the rejected response of a row.

    Raises:
        BadRow: if there is no prompt, or the sides do not continue the same one.
    """
    column = next((name for name in PROMPT_COLUMNS if holds(values, name)), None)
    sides = [value_of(values, side) for side in _SIDES]
    texts = [isinstance(side, str) for side in sides]
    if any(texts) and not all(texts):
        other = texts.index(False)
        raise BadRow(
            f"column {_SIDES[other]!r} holds {type(sides[other]).__name__}, "
            f"wanted text as in {_SIDES[1 - other]!r}"
        )
    if all(texts):
        if column is None:
            return _split_texts(*sides)
        return _without_reply(_given(values, column), column), *sides
    return _split_messages(values, column)


def _given(values: dict[str, Any], column: str) -> PromptText:
    if column == "instruction":
        return instruction_of(values)
    return with_system(values, text_or_messages(values, column), column)


def _split_messages(values: dict[str, Any], column: str | None) -> tuple[PromptText, str, str]:
    chosen, rejected = (split_reply(messages_of(values, side), side) for side in _SIDES)
    history = chosen[0]
    if history != rejected[0]:
        raise BadRow("chosen and rejected differ before their last message")
    if column is not None:
        prompt = _whole(_given(values, column), history, column)
    elif history:
        prompt = history
    else:
        raise BadRow("no prompt: no column holds it, and nothing precedes the last messages")
    return _without_reply(prompt, column or "chosen"), chosen[1], rejected[1]


def _whole(prompt: PromptText, history: Turns, column: str) -> PromptText:
    """Return the prompt: the column's, or, where the sides repeat it, what they begin with."""
    if not history:
        return prompt
    if isinstance(prompt, str):
        repeated = prompt.strip() in [turn.content.strip() for turn in history]
    else:
        repeated = prompt == history[: len(prompt)]
    if not repeated:
        raise BadRow(f"what comes before the last message of chosen does not repeat {column!r}")
    return history


def _without_reply(prompt: PromptText, column: str) -> PromptText:
    if not isinstance(prompt, str) and prompt[-1].role == "assistant":
        raise BadRow(f"column {column!r} has a message of the assistant just before the response")
    return prompt


def _split_texts(chosen: str, rejected: str) -> tuple[PromptText, str, str]:
    """Cut two texts where they part.

    The cut goes back to the start of the word in which they differ: half a word is no prompt, and
    its tokens would not be those of the whole word. A single space goes with the word, as most
    tokenizers have it. First words that two responses share end up in the prompt; only a column
    of its own can tell them apart.
    """
    if chosen.lstrip().startswith(("Human:", "Assistant:")):
        return split_pair(chosen, rejected)
    shared = os.path.commonprefix([chosen, rejected])
    cut = next((end for end in range(len(shared), 0, -1) if shared[end - 1].isspace()), 0)
    if shared[:cut].endswith(" "):
        cut -= 1
    if not shared[:cut].strip():
        raise BadRow("no prompt: no column holds it, and chosen and rejected share no first word")
    return shared[:cut], chosen[cut:], rejected[cut:]


def _ratings(values: dict[str, Any]) -> tuple[float, float] | None:
    for columns in _RATING_COLUMNS:
        if not any(holds(values, column) for column in columns):
            continue
        chosen, rejected = (number_of(values, column) for column in columns)
        if chosen < rejected:
            raise BadRow(f"chosen is rated below rejected: {chosen:g} and {rejected:g}")
        return chosen, rejected
    return None


def _tie(values: dict[str, Any]) -> bool:
    tie = values.get("tie") or False
    if not isinstance(tie, bool):
        raise BadRow(f"column 'tie' holds {tie!r}, wanted true or false")
    return tie
