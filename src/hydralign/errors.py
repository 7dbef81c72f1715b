"""The one kind of error whose message is meant for the user."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: the message says what, where and what to do."""


def nearest(wrong: str, right: Iterable[str]) -> str:
    """Suggest the valid name that looks most like a wrong one, as a sentence to append."""
    right = sorted(right)
    close = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Valid names: {', '.join(right)}." if right else ""
