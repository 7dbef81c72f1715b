"""The one kind of error whose message is meant for the user, and the words such messages share."""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend: the message says what, where and what to do."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_ALLOC_FAILED")
"""How torch and the libraries below it put it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory did not suffice."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def no_memory(error: BaseException) -> str:
    """Return the one line of an out-of-memory error that matters."""
    return str(error).strip().partition("\n")[0]


ASK_THE_PLAN = (
    "The same settings after `python scripts/plan.py` show what takes it, and what takes less."
)

DIVERGED = (
    "Training has diverged, or a row of data is rotten. Begin anew in another folder with a lower "
    "learning rate or max_grad_norm."
)


NO_SPACE = ("the disk is full", "the disk quota is used up")

_DISK = {
    errno.ENOSPC: NO_SPACE[0],
    errno.EDQUOT: NO_SPACE[1],
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENAMETOOLONG: "the name is too long",
}


def disk_trouble(error: BaseException) -> str | None:
    """Say what is wrong with the disk, if that is what an exception means."""
    if isinstance(error, OSError):
        return _DISK.get(error.errno or 0)
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors and tokenizers: Rust
    return _DISK.get(int(found.group(1))) if found else None


@contextmanager
def disk_errors(target: Path, option: str) -> Iterator[None]:
    """Say what is wrong with the disk that a file is written to.

    Args:
        target: the file.
        option: of the command line, that names another.

    Raises:
        UserError: for what is wrong with the disk.
    """
    try:
        yield
    except OSError as error:
        if (reason := disk_trouble(error)) is None:
            raise
        raise UserError(
            f"Cannot write {target}: {reason}. Mend that, or choose another file: {option}."
        ) from error


class BadNumbers(UserError):
    """Numbers that cannot be right, with what they came from."""

    def __init__(self, said: str, evidence: Mapping[str, Any]) -> None:
        """Say what is wrong.

        Args:
            said: what, and what to do.
            evidence: what it came from: anything that JSON can hold, for a file.
        """
        super().__init__(said)
        self.evidence = evidence


def closest(wrong: str, right: Iterable[str]) -> str | None:
    """Return the valid name that looks most like a wrong one, if any looks like it."""
    close = difflib.get_close_matches(wrong, sorted(right), n=1, cutoff=0.5)
    return close[0] if close else None


def nearest(wrong: str, right: Iterable[str]) -> str:
    """Suggest the valid name that looks most like a wrong one, as a sentence to append."""
    right = sorted(right)
    close = closest(wrong, right)
    if close is not None:
        return f" Did you mean {close}?"
    return f" Valid names: {', '.join(right)}." if right else ""


_KINDS = {
    "Integer": "a whole number, such as 1",
    "Float": "a number, such as 0.5 or 1e-4",
    "Boolean": "true or false",
}


def what_is_wrong(error: BaseException) -> str:
    """Return what OmegaConf says of a value in one line, and in plain words where it has none."""
    first = str(error).strip().partition("\n")[0].rstrip(".")
    if found := re.search(r"could not be converted to (\w+)$", first):
        return f"wanted {_KINDS.get(found.group(1), found.group(1))}"
    if "is not a ListConfig" in first:
        return "wanted a list, such as [a,b]"
    return first
