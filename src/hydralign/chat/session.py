"""A conversation with one policy, or the same one with two, and the commands that steer it."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from hydralign.chat.speaker import Speaker
from hydralign.data.records import Message
from hydralign.errors import UserError, nearest
from hydralign.rollout.decoding import Decoding

MOST_SEED = 2**62
"""Well below what a generator takes: each answer adds one."""


class Session:
    """What has been said, and how answers are drawn."""

    def __init__(self, speakers: Sequence[Speaker], decoding: Decoding, seed: int = 0) -> None:
        """Begin a conversation.

        Args:
            speakers: who answer, each of them all that is said.
            decoding: how.
            seed: of the first answer; each one after it has its own.

        Raises:
            UserError: if the seed is out of bounds.
        """
        self.speakers, self.decoding = speakers, decoding
        self.reseed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.turns: list[list[Message]] = [[] for _ in self.speakers]

    def reseed(self, seed: int) -> None:
        """Draw the next answer from a seed.

        Raises:
            UserError: if it is below 0 or above `MOST_SEED`.
        """
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"seed {seed}: wanted a whole number from 0 to {MOST_SEED}.")
        self.seed = seed

    def ask(self, text: str) -> Generator[tuple[int, str], None, None]:
        """Let all speakers answer, token by token in turn.

        Closed early, what was said so far counts as the answer.

        Args:
            text: to answer.

        Yields:
            who speaks, and a piece of the answer.
        """
        asked = [[*turns, Message("user", text)] for turns in self.turns]
        going = {
            number: speaker.answer(turns, self.decoding, self.seed)
            for number, (speaker, turns) in enumerate(zip(self.speakers, asked, strict=True))
        }
        self.seed += 1
        said = [""] * len(self.speakers)
        try:
            while going:
                for number, pieces in list(going.items()):
                    if (piece := next(pieces, None)) is None:
                        del going[number]
                    else:
                        said[number] += piece
                        yield number, piece
        finally:
            self.turns = [
                [*turns, Message("assistant", answer)]
                for turns, answer in zip(asked, said, strict=True)
            ]


def obey(session: Session, line: str) -> str:
    """Do what a command says.

    Args:
        session: to change.
        line: such as `/temperature 0.7`.

    Returns:
        what to tell the user.

    Raises:
        UserError: if there is no such command, or its value makes no sense.
    """
    name, _, value = line.strip().partition(" ")
    if name not in COMMANDS:
        raise UserError(f"There is no {name}.{nearest(name, COMMANDS)} /help lists all.")
    try:
        return COMMANDS[name][0](session, value.strip())
    except ValueError as error:
        raise UserError(f"{name} wants a number: {name} {COMMANDS[name][1]}") from error


def _reset(session: Session, _: str) -> str:
    session.reset()
    return "What was said is forgotten."


def _temperature(session: Session, value: str) -> str:
    session.decoding = replace(session.decoding, temperature=float(value))
    return _settings(session)


def _top_p(session: Session, value: str) -> str:
    session.decoding = replace(session.decoding, top_p=float(value))
    return _settings(session)


def _top_k(session: Session, value: str) -> str:
    top_k = None if value == "all" else int(value)
    session.decoding = replace(session.decoding, top_k=top_k)
    return _settings(session)


def _seed(session: Session, value: str) -> str:
    session.reseed(int(value))
    return _settings(session)


def _help(session: Session, _: str) -> str:
    lines = [f"{f'{name} {value}':20}{does}" for name, (_, value, does) in COMMANDS.items()]
    return "\n".join([*lines, f"{QUIT:20}end, as Ctrl-D does", _settings(session)])


def _settings(session: Session) -> str:
    how = session.decoding
    temperature = f"{how.temperature:g}{' (greedy)' if how.temperature == 0 else ''}"
    top_k = "all" if how.top_k is None else how.top_k
    return f"temperature {temperature}, top-p {how.top_p:g}, top-k {top_k}, seed {session.seed}"


QUIT = "/quit"
COMMANDS: dict[str, tuple[Callable[[Session, str], str], str, str]] = {
    "/reset": (_reset, "", "forget what was said"),
    "/temperature": (_temperature, "0.7", "1 is as in training; 0 takes the likeliest token"),
    "/top-p": (_top_p, "0.9", "leave the likeliest tokens that add up to it; 1 leaves all"),
    "/top-k": (_top_k, "50", "leave so many of the likeliest tokens, or: all"),
    "/seed": (_seed, "0", "of the next answer; the same gives the same"),
    "/help": (_help, "", "this list"),
}
"""What each does, an example of its value, and what to say of it."""
