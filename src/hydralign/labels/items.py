"""What an annotator is shown, and what comes back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydralign.data.records import ranks_from_ratings
from hydralign.errors import UserError
from hydralign.labels.order import shown_order
from hydralign.terminal_text import harmless

LONGEST_NAME, LONGEST_NOTE = 60, 4000


@dataclass(frozen=True)
class Shown:
    """An item as one annotator sees it: without where its responses come from."""

    item: int
    content: str
    """Its hash, by which a ranking finds out whether it is for this item."""
    prompt: Any
    """A text, or a list of messages."""
    responses: list[str]
    """In an order of this annotator's own."""
    ranks: list[int] | None = None
    """Of these responses, where a ranking was undone."""
    note: str = ""


@dataclass(frozen=True)
class Item:
    """A prompt with responses to rank, as the database holds it."""

    id: int
    content: str
    """Its hash."""
    prompt: Any
    responses: list[str]

    def order_for(self, annotator: str) -> list[int]:
        """Return the responses' indices in the order in which an annotator sees them."""
        return shown_order(self.content, annotator, len(self.responses))

    def shown_to(self, annotator: str, ranks: Sequence[int] | None = None, note: str = "") -> Shown:
        """Return the item as an annotator sees it.

        Args:
            annotator: who sees it.
            ranks: of the responses in the item's order, from a ranking that was undone.
            note: of that ranking.
        """
        order = self.order_for(annotator)
        return Shown(
            self.id,
            self.content,
            self.prompt,
            [self.responses[index] for index in order],
            None if ranks is None else [ranks[index] for index in order],
            note,
        )

    def ranks_of(self, submission: "Submission") -> list[int] | None:
        """Return a submission's ranks in the item's order, each the number of better responses.

        Raises:
            UserError: if there is not one rank for each response.
        """
        given, k = submission.ranks, len(self.responses)
        if given is None:
            return None
        if len(given) != k:
            raise UserError(f"Item {self.id} has {k} responses, but {len(given)} ranks came.")
        better = ranks_from_ratings(tuple(-rank for rank in given))
        places = dict(zip(self.order_for(submission.annotator), better, strict=True))
        return [int(places[index]) for index in range(k)]


class AnotherItem(UserError):
    """A ranking is of an item that this database does not have, or has under another number."""


@dataclass(frozen=True)
class Submission:
    """A ranking as it comes from an annotator.

    Raises:
        UserError: if the name or the note cannot be kept, or a rank is no finite number.
    """

    item: int
    annotator: str
    ranks: Sequence[float] | None
    """Of the responses as shown; lower is better, equal is a tie. None skips the item."""
    note: str = ""
    seconds: float | None = None
    """Since it was shown."""
    token: str = ""
    """The same for a submission that is sent again; empty makes it one of its own."""
    content: str = ""
    """The hash of the item that was shown; empty takes any item of that number."""

    def __post_init__(self) -> None:
        check_name(self.annotator)
        if self.ranks is not None and not all(math.isfinite(rank) for rank in self.ranks):
            raise UserError("ranks: wanted finite numbers.")
        if len(self.note) > LONGEST_NOTE:
            raise UserError(f"The note has more than {LONGEST_NOTE} characters.")
        if any("\ud800" <= c <= "\udfff" for c in self.note):
            raise UserError("The note holds characters that are not Unicode.")


def check_name(name: str) -> str:
    """Return an annotator's name.

    Raises:
        UserError: if it is empty, too long, has space around it or is not one line.
    """
    if not name.strip():
        raise UserError("The annotator's name is empty. Rankings are kept by name: give one.")
    one_line = name.splitlines() == [name] and "\t" not in name and harmless(name) == name
    if len(name) > LONGEST_NAME or not one_line or name != name.strip():
        raise UserError(
            f"The annotator's name must be one line of at most {LONGEST_NAME} characters, without "
            "space around it and without control characters."
        )
    return name
