"""Grade-school sums with worked answers, in the columns of GSM8K (arXiv 2110.14168)."""

from typing import Any

from hydralign.data.mapping import row_wise
from hydralign.data.records import BadRow, Demonstration, Prompt
from hydralign.data.rows import text_of

_MARK = "####"


@row_wise
def demonstration(values: dict[str, Any]) -> Demonstration:
    """Make a demonstration of `question` and the whole worked `answer`."""
    return Demonstration(text_of(values, "question").strip(), text_of(values, "answer").strip())


@row_wise
def prompt(values: dict[str, Any]) -> Prompt:
    """Make a prompt of `question`; its answer is the number after `####` in `answer`."""
    _, found, number = text_of(values, "answer").rpartition(_MARK)
    if not found or not number.strip():
        raise BadRow(f"no number after {_MARK} in column 'answer'")
    return Prompt(text_of(values, "question").strip(), number.strip())
