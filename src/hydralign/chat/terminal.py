"""Talking in a terminal: answers as they come, or line by line where nobody types."""

from collections.abc import Callable, Iterator
from contextlib import closing

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hydralign.chat.session import QUIT, Session, obey
from hydralign.errors import UserError
from hydralign.terminal_text import harmless

QUIET = "yellow"


def talk(session: Session, ask: Callable[[str], str], console: Console) -> None:
    """Talk until `/quit` or the end of input. Ctrl-C stops an answer, not the conversation.

    Args:
        session: with whom.
        ask: reads a line.
        console: to write to.
    """
    console.print(Text(f"{_names(session)}. /help lists the commands.", QUIET))
    while True:
        try:
            line = ask("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            console.print(Text(f"\n{QUIT} or Ctrl-D ends.", QUIET))
            continue
        if line.strip() == QUIT:
            return
        if line.strip():
            _answer(session, line, console)


def answer_lines(session: Session, lines: Iterator[str], console: Console) -> None:
    """Answer each line by itself, as if nothing had been said before.

    Args:
        session: with whom.
        lines: prompts and commands.
        console: to write to.
    """
    for line in lines:
        line = line.rstrip("\r\n")
        if line.strip() == QUIT:
            return
        if line.strip():
            session.reset()
            _answer(session, line, console)


def _answer(session: Session, line: str, console: Console) -> None:
    try:
        if line.startswith("/"):
            console.print(Text(obey(session, line), QUIET))
            return
        with closing(session.ask(line)) as pieces:
            _show(session, pieces, console)
    except KeyboardInterrupt:
        console.print(Text("\n(stopped)", QUIET))
    except UserError as error:
        console.print(Text(str(error), QUIET))


def _show(session: Session, pieces: Iterator[tuple[int, str]], console: Console) -> None:
    if len(session.speakers) == 1:
        for _, piece in pieces:
            console.print(Text(harmless(piece)), end="", soft_wrap=True)
        console.print()
        return
    said = [""] * len(session.speakers)
    if not console.is_terminal:
        for number, piece in pieces:
            said[number] += piece
        console.print(_side_by_side(session, said))
        return
    with Live(console=console, refresh_per_second=10, vertical_overflow="visible") as live:
        for number, piece in pieces:
            said[number] += piece
            live.update(_side_by_side(session, said))


def _side_by_side(session: Session, said: list[str]) -> Table:
    columns = Table.grid(expand=True)
    for _ in said:
        columns.add_column(ratio=1)
    columns.add_row(
        *(
            Panel(Text(harmless(text)), title=Text(speaker.name), title_align="left")
            for speaker, text in zip(session.speakers, said, strict=True)
        )
    )
    return columns


def _names(session: Session) -> str:
    return " beside ".join(speaker.name for speaker in session.speakers)
