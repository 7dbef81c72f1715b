"""One row of a data set, before anything is made of it."""

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
