"""Train, validation and test, told apart by a hash so that a text stays where it is."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hydralign.errors import UserError

T = TypeVar("T")
U = TypeVar("U")

SPLIT_NAMES = ("train", "validation", "test")
ALL = "all"
"""Instead of a split: every record, for a file that is nothing but prompts."""


@dataclass(frozen=True)
class Splits(Generic[T]):
    """Something of each split."""

    train: list[T] = field(default_factory=list)
    validation: list[T] = field(default_factory=list)
    test: list[T] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[T]:
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def items(self) -> Iterator[tuple[str, list[T]]]:
        """Iterate over the names and lists."""
        return ((name, self[name]) for name in SPLIT_NAMES)

    def map(self, change: Callable[[str, list[T]], list[U]]) -> "Splits[U]":
        """Return what a function of name and list makes of each split."""
        return Splits(*(change(name, values) for name, values in self.items()))

    def fingerprint(self) -> str:
        """Hash everything in them, in order, as it is written out."""
        found = hashlib.sha256()
        for name, values in self.items():
            found.update(name.encode())
            for value in values:
                found.update(repr(value).encode())
        return found.hexdigest()


SplitOf = Callable[[str], str]
"""Tells which split a key belongs to."""


class HashSplitter:
    """Places a key by its hash: the same text, whatever the record or the stage, in one split."""

    def __init__(self, fractions: Mapping[str, float]) -> None:
        """Set the sizes.

        Args:
            fractions: expected share of each split; a split left out gets none.

        Raises:
            UserError: if a name is unknown, a share is negative, or they do not add up to 1.
        """
        if unknown := [name for name in fractions if name not in SPLIT_NAMES]:
            raise UserError(f"data.splits has {unknown}; the splits are {', '.join(SPLIT_NAMES)}.")
        if min(fractions.values(), default=0) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
            raise UserError(
                f"data.splits={dict(fractions)}: shares must be at least 0 and add up to 1."
            )
        # The test split lies first, so that moving the bounds of the others leaves it as it is.
        self._test = fractions.get("test", 0.0)
        self._validation = self._test + fractions.get("validation", 0.0)

    def __call__(self, key: str) -> str:
        """Return the split of a key."""
        position = stable_hash(key) / 2**64
        if position < self._test:
            return "test"
        return "validation" if position < self._validation else "train"


def stable_hash(text: str) -> int:
    """Return 64 bits that depend on nothing but the text (Python's `hash` changes per process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
