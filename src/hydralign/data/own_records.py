"""Rows that are records already: your own file, one record to a row.

A prompt is text, or a list of messages with `role` and `content`.
"""

import math
from typing import Any

from hydralign.data.mapping import row_wise
from hydralign.data.records import (
    BadRow,
    Comparison,
    Demonstration,
    Message,
    Prompt,
    PromptText,
    ranks_from_ratings,
)
from hydralign.data.rows import text_of, value_of


@row_wise
def demonstration(values: dict[str, Any]) -> Demonstration:
    """Make a demonstration of `prompt` and `response`."""
    return Demonstration(_prompt(values), text_of(values, "response"))


@row_wise
def comparison(values: dict[str, Any]) -> Comparison:
    """Make a comparison of `prompt`, `responses`, and `ranks` or `ratings` or both."""
    responses = value_of(values, "responses")
    if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
        raise BadRow("column 'responses' holds no list of texts")
    ratings = None if values.get("ratings") is None else _numbers(values, "ratings")
    if ratings is not None and values.get("ranks") is None:
        ranks = ranks_from_ratings(ratings)
    else:
        ranks = _numbers(values, "ranks")
    return Comparison(_prompt(values), tuple(responses), ranks, ratings)


@row_wise
def prompt(values: dict[str, Any]) -> Prompt:
    """Make a prompt of `prompt` and, where there is one, `answer`."""
    answer = text_of(values, "answer") if values.get("answer") is not None else None
    return Prompt(_prompt(values), answer)


def _prompt(values: dict[str, Any]) -> PromptText:
    value = value_of(values, "prompt")
    if not isinstance(value, list):
        return text_of(values, "prompt")
    if not all(isinstance(turn, dict) for turn in value):
        raise BadRow("column 'prompt' holds a list, but not of messages with role and content")
    return tuple(Message(text_of(turn, "role"), text_of(turn, "content")) for turn in value)


def _numbers(values: dict[str, Any], column: str) -> tuple[float, ...]:
    value = value_of(values, column)
    if not isinstance(value, list) or not all(_is_number(number) for number in value):
        raise BadRow(f"column {column!r} holds no list of numbers")
    return tuple(float(number) for number in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
