"""Instructions with answers, in the columns of the Alpaca data set."""

from typing import Any

from hydralign.data.mapping import row_wise
from hydralign.data.records import BadRow, Demonstration, Prompt
from hydralign.data.rows import text_of


def instruction_of(values: dict[str, Any]) -> str:
    """Return `instruction` with `input`, which may be empty or missing, below it.

    Raises:
        BadRow: if there is no instruction.
    """
    instruction = text_of(values, "instruction").strip()
    if not instruction:
        raise BadRow("empty instruction")
    context = text_of(values, "input").strip() if values.get("input") is not None else ""
    return f"{instruction}\n\n{context}" if context else instruction


@row_wise
def demonstration(values: dict[str, Any]) -> Demonstration:
    """Make a demonstration of `instruction`, `input` (which may be empty) and `output`."""
    return Demonstration(instruction_of(values), text_of(values, "output").strip())


@row_wise
def prompt(values: dict[str, Any]) -> Prompt:
    """Make a prompt of `instruction` and `input` (which may be empty)."""
    return Prompt(instruction_of(values))
