"""An account of the rows that a data set lost on the way, and a limit on how many it may lose."""

import logging
from collections import Counter

from hydralign.errors import UserError

_log = logging.getLogger(__name__)
_SHOWN = 3


class RowReport:
    """Counts bad rows with their reasons, and anything else that happened to rows."""

    def __init__(self, origin: str) -> None:
        """Open an empty account.

        Args:
            origin: the file, hub id or data set that messages name.
        """
        self.origin = origin
        self.bad_rows: list[tuple[int, str]] = []
        self.counts: Counter[str] = Counter()

    def bad(self, row: int, reason: object) -> None:
        """Note a row that cannot be used."""
        self.bad_rows.append((row, str(reason)))

    def count(self, what: str, n: int = 1) -> None:
        """Note something else worth telling, such as "responses cut to the length limit"."""
        self.counts[what] += n

    def close(self, total: int, max_bad_rows: float) -> None:
        """Print the account once, and stop if too many rows were bad.

        Args:
            total: rows looked at.
            max_bad_rows: the largest bearable share of bad rows.

        Raises:
            UserError: if the share of bad rows is larger, naming the first of them.
        """
        for what, n in self.counts.items():
            _log.info("%s: %d %s", self.origin, n, what)
        if not self.bad_rows:
            return
        if len(self.bad_rows) > max_bad_rows * total:
            raise UserError(
                f"{self.summary(total)}\nThat is more than data.max_bad_rows={max_bad_rows:g} "
                "allows. Mend the rows or their mapping, or raise the limit."
            )
        _log.warning(self.summary(total))

    def summary(self, total: int) -> str:
        """Return the first bad rows with their reasons, and how many there are of each reason."""
        lines = [f"{self.origin}: {len(self.bad_rows)} of {total} rows cannot be used."]
        lines += [f"  row {row}: {reason}" for row, reason in self.bad_rows[:_SHOWN]]
        rest = Counter(reason for _, reason in self.bad_rows[_SHOWN:])
        lines += [f"  and {n} more: {reason}" for reason, n in rest.most_common(_SHOWN)]
        others = rest.total() - sum(n for _, n in rest.most_common(_SHOWN))
        if others:
            lines.append(f"  and {others} more for other reasons")
        return "\n".join(lines)
