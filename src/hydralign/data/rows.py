"""One row of a data set, before anything is made of it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydralign.data.records import BadRow


@dataclass(frozen=True)
class Row:
    """The values of a row by column."""

    number: int
    """Line number in a file of lines, row number elsewhere; from 1."""
    values: dict[str, Any]


def value_of(values: dict[str, Any], column: str) -> Any:
    """Return the value in a column.

    Raises:
        BadRow: if the row has no such column.
    """
    if column not in values:
        raise BadRow(f"no column {column!r}; found {', '.join(map(str, values)) or 'none'}")
    return values[column]


def text_of(values: dict[str, Any], column: str) -> str:
    """Return the text in a column.

    Raises:
        BadRow: if the row has no such column, or it holds something else.
    """
    value = value_of(values, column)
    if not isinstance(value, str):
        raise BadRow(f"column {column!r} holds {type(value).__name__}, wanted text")
    return value


def holds(values: dict[str, Any], column: str) -> bool:
    """Tell whether a row has something in a column; null is nothing, as tables fill gaps so."""
    return values.get(column) is not None


def number_of(values: dict[str, Any], column: str) -> float:
    """Return the number in a column.

    Raises:
        BadRow: if the row has no such column, or it holds something else, such as NaN.
    """
    value = value_of(values, column)
    if not _is_number(value):
        raise BadRow(f"column {column!r} holds {value!r}, wanted a number")
    return float(value)


def numbers_of(values: dict[str, Any], column: str) -> tuple[float, ...]:
    """Return the list of numbers in a column.

    Raises:
        BadRow: if the row has no such column, or it holds something else.
    """
    value = value_of(values, column)
    if not isinstance(value, list) or not all(_is_number(number) for number in value):
        raise BadRow(f"column {column!r} holds no list of numbers")
    return tuple(float(number) for number in value)


def objects_of(values: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """Return the list of objects in a column.

    Raises:
        BadRow: if the row has no such column, or it holds something else.
    """
    value = value_of(values, column)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRow(f"column {column!r} holds no list of objects")
    return value


@contextmanager
def within(where: str) -> Iterator[None]:
    """Say where in a row the reason lies, if there is one.

    Raises:
        BadRow: with the place before the reason.
    """
    try:
        yield
    except BadRow as reason:
        raise BadRow(f"{where}: {reason}") from reason


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
