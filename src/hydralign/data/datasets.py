"""From a data set's rows to the records of one kind, split."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydralign.data.mapping import RecordMapping
from hydralign.data.records import RECORD_KINDS, RECORD_USES
from hydralign.data.report import RowReport
from hydralign.data.rows import Row
from hydralign.data.splits import SPLIT_NAMES, HashSplitter, Splits
from hydralign.errors import UserError

_log = logging.getLogger(__name__)


def load_records(
    kind: str,
    *,
    name: str,
    source: Callable[[], Sequence[Row]],
    mappings: Mapping[str, RecordMapping],
    fractions: Mapping[str, float],
    origin: str | None = None,
    max_bad_rows: float = 0.05,
) -> Splits[Any]:
    """Read a data set and make records of one kind of it.

    Args:
        kind: "demonstration", "comparison" or "prompt".
        name: of the data set.
        source: reads the rows.
        mappings: how rows become records, for each kind that the data set offers.
        fractions: expected share of train, validation and test.
        origin: the file or hub id that messages name; the name if None.
        max_bad_rows: the largest bearable share of rows that cannot be used.

    Raises:
        UserError: if the data set does not offer the kind (before anything is read), cannot be
            read, has too many bad rows, or leaves nothing to train on.
    """
    check_offered(kind, name, mappings)
    split_of = HashSplitter(fractions)
    rows, report = source(), RowReport(origin or name)
    splits: Splits[Any] = mappings[kind](rows, split_of, report)
    report.close(len(rows), max_bad_rows)
    for split in SPLIT_NAMES:
        if fractions.get(split) and not splits[split]:
            _refuse_or_warn(split, kind, origin or name, len(rows))
    return splits


def check_offered(kind: str, name: str, mappings: Mapping[str, RecordMapping]) -> None:
    """Check that a data set offers a kind of record. Needs no data.

    Raises:
        UserError: if not, or if the data set claims to offer a kind that does not exist.
    """
    if unknown := [offered for offered in mappings if offered not in RECORD_KINDS]:
        raise UserError(
            f"data={name}: records.{unknown[0]} is no kind of record. "
            f"The kinds are {', '.join(RECORD_KINDS)}."
        )
    if kind not in mappings:
        offers = [f"  {offered}, for {RECORD_USES[offered]}" for offered in mappings]
        raise UserError(
            f"data={name} offers no {kind} records (wanted for {RECORD_USES[kind]}).\n"
            "It offers\n" + "\n".join(offers)
        )


def _refuse_or_warn(split: str, kind: str, origin: str, rows: int) -> None:
    message = f"{origin}: the {split} split has no {kind} of the {rows} rows."
    if split == "train":
        raise UserError(f"{message} There are too few rows, or data.splits leaves it too little.")
    _log.warning(message)
