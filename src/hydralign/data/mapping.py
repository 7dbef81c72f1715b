"""From rows to records, split by split."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from hydralign.data.records import BadRow, Record
from hydralign.data.report import RowReport
from hydralign.data.rows import Row
from hydralign.data.splits import SplitOf, Splits
from hydralign.data.templates import dialogue_text

R = TypeVar("R", bound=Record)
P = ParamSpec("P")

RecordMapping = Callable[[Sequence[Row], SplitOf, RowReport], Splits[Any]]
"""What a data config names for each kind of record that it offers: it makes records of rows, puts
them into splits, and notes in the report the rows that it cannot use."""


def row_wise(
    convert: Callable[Concatenate[dict[str, Any], P], R],
) -> Callable[Concatenate[Sequence[Row], SplitOf, RowReport, P], Splits[R]]:
    """Make a `RecordMapping` of a function that makes one record of one row's values.

    Records are split by the text of their prompt, so that a prompt met in one split is in no other,
    whatever the kind of record.

    Args:
        convert: takes the values of a row, and options; raises `BadRow` on a row without use.
    """

    @wraps(convert)
    def mapping(
        rows: Sequence[Row],
        split_of: SplitOf,
        report: RowReport,
        *args: P.args,
        **options: P.kwargs,
    ) -> Splits[R]:
        splits: Splits[R] = Splits()
        for row in rows:
            try:
                record = convert(row.values, *args, **options)
            except BadRow as reason:
                report.bad(row.number, reason)
            else:
                name = split_of(dialogue_text(record.prompt))
                splits[name].append(replace(record, row=row.number))
        return splits

    return mapping
