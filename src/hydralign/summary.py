"""A plain table of a run's figures, for the console."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

BEFORE_AND_AFTER = (
    ("score_before", "score_after", "score that was trained on"),
    ("gold_before", "gold_after", "gold score (never trained on)"),
    ("eos_rate_before", "eos_rate", "responses that stop by themselves"),
    ("response_length_before", "response_length", "tokens per response"),
    ("distinct_responses_before", "distinct_responses", "share of distinct responses"),
    ("distinct_bigrams_before", "distinct_bigrams", "share of distinct word pairs"),
)
"""Figures of a stage, without its name, and what they mean."""


def final_table(figures: Mapping[str, float]) -> str:
    """Return the figures as a table, those with a before and an after side by side.

    Args:
        figures: by name, `stage/name`.
    """
    pairs = [
        (f"{stage}/{before}", f"{stage}/{after}", stage, meaning)
        for stage in dict.fromkeys(name.partition("/")[0] for name in figures)
        for before, after, meaning in BEFORE_AND_AFTER
        if f"{stage}/{before}" in figures and f"{stage}/{after}" in figures
    ]
    table = Table("stage", "figure", "before", "after", "change")
    for before, after, stage, meaning in pairs:
        old, new = figures[before], figures[after]
        table.add_row(stage, meaning, f"{old:.3f}", f"{new:.3f}", f"{new - old:+.3f}")
    paired = {name for before, after, *_ in pairs for name in (before, after)}
    singles = Table("figure", "value")
    for name, value in figures.items():
        if name not in paired:
            singles.add_row(name, f"{value:.4g}")
    return _render(*(t for t in (singles, table) if t.row_count))


class BeforeAndAfter(NamedTuple):
    """Two responses to one prompt."""

    prompt: str
    before: str
    after: str
    score_before: float
    score_after: float


def samples_table(rows: Sequence[BeforeAndAfter]) -> str:
    """Return responses before and after side by side, for the console."""
    table = Table("prompt", "before", "after", "score", show_lines=True)
    for row in rows:
        change = f"{row.score_before:+.2f} to {row.score_after:+.2f}"
        table.add_row(escape(row.prompt), escape(row.before), escape(row.after), change)
    return _render(table)


def samples_markdown(rows: Sequence[BeforeAndAfter]) -> str:
    """Return responses before and after as a Markdown table."""
    lines = ["| prompt | before | score | after | score |", "| --- | --- | --- | --- | --- |"]
    for prompt, before, after, old, new in rows:
        cells = [prompt, before, f"{old:+.2f}", after, f"{new:+.2f}"]
        lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    return "\n".join(lines) + "\n"


def markdown_cell(text: str) -> str:
    """Keep a text from breaking a Markdown table."""
    return text.replace("|", "\\|").replace("\n", "<br>")


class Row(NamedTuple):
    """A row of text."""

    cells: Sequence[str]
    bold: bool = False


def aligned_table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Return rows of figures as a table, all columns but the first aligned to the right."""
    table = Table(head[0])
    for name in head[1:]:
        table.add_column(name, justify="right")
    for cells, bold in rows:
        table.add_row(*cells, style="bold" if bold else None)
    return _render(table, width=120)


def _render(*tables: Table, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()
