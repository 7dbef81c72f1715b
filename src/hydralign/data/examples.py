"""Records as tokens."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pair:
    """Two responses of a comparison, by index."""

    first: int
    second: int
    target: float
    """Probability that the first is preferred: 1, or 0.5 for a tie."""
    gap: float | None = field(default=None, repr=False)
    """How far apart people rated them, where they did. Nothing is learned from it, so it is no part
    of what tells two data sets apart, which is the text of this object."""


@dataclass(frozen=True)
class DemonstrationExample:
    """A demonstration as tokens."""

    prompt_ids: list[int]
    response_ids: list[int]
    """Ends with the stop token, unless it was cut to the length limit."""

    @property
    def sequences(self) -> int:
        """Rows that it takes in a batch."""
        return 1

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return self.length


@dataclass(frozen=True)
class ComparisonExample:
    """A comparison as tokens, with the pairs to learn from."""

    prompt_ids: list[int]
    responses: list[list[int]]
    """Each ends with the stop token."""
    pairs: list[Pair]
    """At least one."""

    @property
    def sequences(self) -> int:
        """Rows that it takes in a batch."""
        return len(self.responses)

    @property
    def length(self) -> int:
        """Tokens of the prompt with its longest response."""
        return len(self.prompt_ids) + max(len(ids) for ids in self.responses)

    @property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(len(self.prompt_ids) + len(ids) for ids in self.responses)


@dataclass(frozen=True)
class PromptExample:
    """A prompt as tokens."""

    prompt_ids: list[int]
    text: str
    """The prompt as it was tokenised."""
    answer: str | None

    @property
    def sequences(self) -> int:
        """Rows that it takes in a batch."""
        return 1

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_ids)


Example = DemonstrationExample | ComparisonExample | PromptExample
