"""The three kinds of records that stages learn from."""

from dataclasses import KW_ONLY, dataclass, field

ROLES = ("system", "user", "assistant")


class BadRow(ValueError):
    """A row of a data set that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise BadRow(f"role {self.role!r}, wanted one of {', '.join(ROLES)}")


PromptText = str | tuple[Message, ...]
"""Plain text, or the turns of a dialogue that a response continues."""


@dataclass(frozen=True)
class Demonstration:
    """A prompt with the response to imitate.

    Raises:
        BadRow: if the response is empty.
    """

    prompt: PromptText
    response: str
    _: KW_ONLY
    row: int = field(default=0, compare=False)
    """Number of the row it came from, for reports."""

    def __post_init__(self) -> None:
        _check_response(self.response)


@dataclass(frozen=True)
class Comparison:
    """A prompt with responses ranked by preference.

    Raises:
        BadRow: if a response is empty, there are fewer than two, the lengths of responses, ranks
            and ratings differ, or all ranks are equal.
    """

    prompt: PromptText
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    """Lower is better, equal is a tie."""
    ratings: tuple[float, ...] | None = None
    """Higher is better. Pairs of responses whose ratings lie close together can be left out."""
    _: KW_ONLY
    row: int = field(default=0, compare=False)
    """Number of the row it came from, for reports."""

    def __post_init__(self) -> None:
        k = len(self.responses)
        if k < 2:
            raise BadRow(f"{k} responses, wanted at least 2")
        if len(self.ranks) != k:
            raise BadRow(f"{k} responses but {len(self.ranks)} ranks")
        if self.ratings is not None and len(self.ratings) != k:
            raise BadRow(f"{k} responses but {len(self.ratings)} ratings")
        if len(set(self.ranks)) == 1:
            raise BadRow("only ties")
        for response in self.responses:
            _check_response(response)


@dataclass(frozen=True)
class Prompt:
    """A prompt to respond to, with the reference answer if a rule needs one.

    Raises:
        BadRow: if the prompt is empty.
    """

    prompt: PromptText
    answer: str | None = None
    _: KW_ONLY
    row: int = field(default=0, compare=False)
    """Number of the row it came from, for reports."""

    def __post_init__(self) -> None:
        if not self.prompt or (isinstance(self.prompt, str) and not self.prompt.strip()):
            raise BadRow("empty prompt")


Record = Demonstration | Comparison | Prompt

RECORD_KINDS: dict[str, type[Record]] = {
    "demonstration": Demonstration,
    "comparison": Comparison,
    "prompt": Prompt,
}
"""The name of each kind in a data config."""

RECORD_USES = {
    "demonstration": "supervised fine-tuning, as stage=sft",
    "comparison": "learning from preferences, as stage=reward",
    "prompt": "reinforcement learning, as stage=ppo",
}
"""What each kind is for, in words for messages."""


def ranks_from_ratings(ratings: tuple[float, ...]) -> tuple[float, ...]:
    """Rank each rating by the number of better ones, so that equal ratings tie."""
    return tuple(float(sum(other > rating for other in ratings)) for rating in ratings)


def _check_response(response: str) -> None:
    if not response.strip():
        raise BadRow("empty response")
