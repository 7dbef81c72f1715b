"""Ranking in a terminal, for a machine without a browser."""

import re
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from hydralign.errors import UserError
from hydralign.labels.items import Shown, Submission, check_name
from hydralign.labels.store import LabelStore
from hydralign.terminal_text import harmless

HELP = (
    "Best first: 3 1=2 4. Equal ones with =. The last may be left out. A note after #. "
    "s skips, u undoes, q ends."
)

SKIPPED = (None, "")


def rank_in_terminal(
    store: LabelStore,
    annotator: str,
    ask: Callable[[str], str],
    console: Console | None = None,
) -> int:
    """Let an annotator rank until nothing is left, or `q`.

    Args:
        store: of the items.
        annotator: the name.
        ask: reads a line.
        console: to show items on.

    Returns:
        how many rankings were saved, skips included.

    Raises:
        UserError: if the annotator has no name.
    """
    console, saved = console or Console(), 0
    shown = store.next(check_name(annotator))
    seen, since = None, 0.0
    while shown is not None:
        if shown is not seen:
            show(shown, console)
            seen, since = shown, time.monotonic()
        line = _typed(ask)
        if line == "q":
            return saved
        try:
            if line == "u":
                shown = _undone(store, annotator)
                continue
            ranks, note = SKIPPED if line == "s" else read_ranking(line, len(shown.responses))
            seconds = round(time.monotonic() - since, 3)
            store.save(Submission(shown.item, annotator, ranks, note, seconds))
            saved += 1
            shown = store.next(annotator)
        except UserError as error:
            console.print(Text(str(error), "yellow"))
    console.print("Nothing is left to rank.")
    return saved


def _typed(ask: Callable[[str], str]) -> str:
    try:
        return ask("> ").strip()
    except EOFError:  # nothing more is typed
        return "q"


def show(shown: Shown, console: Console) -> None:
    """Print an item. Nothing of it is read as rich's markup, or as the terminal's commands."""
    turns = [{"role": "prompt", "content": shown.prompt}]
    prompt = [
        Text.assemble((f"{turn['role']}\n", "dim"), harmless(turn["content"].strip()))
        for turn in (turns if isinstance(shown.prompt, str) else shown.prompt)
    ]
    cards = [
        Panel(Text(harmless(text.strip())), title=Text(str(number)), title_align="left")
        for number, text in enumerate(shown.responses, start=1)
    ]
    console.rule()
    console.print(Padding(Group(*prompt), (1, 2)), *cards, Text(HELP, "dim"), sep="\n")


def read_ranking(line: str, k: int) -> tuple[list[int], str]:
    """Read a ranking as it is typed.

    Args:
        line: such as `3 1=2 4 # a note`: numbers from 1, the best first, `=` for a tie.
        k: responses. If one is not named, it is last.

    Returns:
        the rank of each response, and the note.

    Raises:
        UserError: if the line is no ranking of k responses.
    """
    order, _, note = line.partition("#")
    if not re.fullmatch(r"\d+([\s,>=]+\d+)*", order.strip()):
        raise UserError(f"That is no ranking. {HELP}")
    tied = re.sub(r"\s*=[\s=]*", "=", order.strip())
    groups = [[int(number) for number in group.split("=")] for group in re.split(r"[\s,>]+", tied)]
    named = [number for group in groups for number in group]
    if wrong := [number for number in named if not 1 <= number <= k or named.count(number) > 1]:
        raise UserError(f"{wrong[0]}: wanted each of 1 to {k} once.")
    left = [number for number in range(1, k + 1) if number not in named]
    if len(left) > 1:
        raise UserError(f"Not ranked yet: {', '.join(map(str, left))}.")
    groups += [left] if left else []
    place = {number: rank for rank, group in enumerate(groups) for number in group}
    return [place[number] for number in range(1, k + 1)], note.strip()


def _undone(store: LabelStore, annotator: str) -> Shown:
    last = store.last(annotator)
    if last is None:
        raise UserError("There is nothing to undo.")
    return store.undo(annotator, last)
