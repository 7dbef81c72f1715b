import io

import pytest
from rich.console import Console

from hydralign.data.label_database import read_rankings
from hydralign.errors import UserError
from hydralign.labels.samples import Sample
from hydralign.labels.terminal import rank_in_terminal, read_ranking

from .conftest import samples


@pytest.mark.parametrize(
    ("line", "ranks", "note"),
    [
        ("3 1=2 4", [1, 1, 0, 2], ""),
        ("3>1=2>4", [1, 1, 0, 2], ""),
        ("3 1 = 2", [1, 1, 0, 2], ""),  # the one that is not named is last
        ("4, 3, 2, 1 # too long, all", [3, 2, 1, 0], "too long, all"),
        ("1=2=3=4", [0, 0, 0, 0], ""),
    ],
)
def test_a_ranking_as_it_is_typed(line, ranks, note):
    assert read_ranking(line, 4) == (ranks, note)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no ranking"),
        ("best", "no ranking"),
        ("1 =", "no ranking"),
        ("1 2", "Not ranked yet: 3, 4"),
        ("1 2 3 5", "5: wanted each of 1 to 4 once"),
        ("1 2 1 3", "1: wanted each"),
        ("0 1 2 3", "0: wanted each"),
    ],
)
def test_what_is_no_ranking(line, said):
    with pytest.raises(UserError, match=said):
        read_ranking(line, 4)


def run(store, *lines):
    """What is printed and how many are saved, when these lines are typed."""
    typed, shown = iter(lines), io.StringIO()
    console = Console(file=shown, width=60)
    saved = rank_in_terminal(store, "Ann", lambda _: next(typed), console)
    return saved, shown.getvalue()


def test_a_session(store):
    store.add(samples(2))
    saved, shown = run(store, "u", "1", "2 1=3 # ok", "u", "3 2 1", "s")
    assert saved == 3  # one of them undone
    assert "There is nothing to undo." in shown
    assert "Not ranked yet: 2, 3." in shown
    assert shown.endswith("Nothing is left to rank.\n")
    (row,) = read_rankings(store.file)
    assert sorted(row.values["ranks"]) == [0, 1, 2]


def test_it_ends_when_asked_or_where_nothing_is_typed(store):
    store.add(samples(2))
    assert run(store, "q")[0] == 0

    def nothing(_):
        raise EOFError

    assert rank_in_terminal(store, "Ann", nothing, Console(file=io.StringIO())) == 0


def test_a_response_gives_the_terminal_no_commands(store):
    store.add([Sample("p\x1b[2J", ("a\x1b]52;c;bHM=\x07", "b"))])
    shown = run(store, "q")[1]
    assert "p�[2J" in shown
    assert "a�]52;c;bHM=�" in shown


def test_markup_of_a_response_is_shown_as_text(store):
    store.add([Sample("[bold]p[/bold]", ("[red]a[/red]", "[link=x]b"))])
    shown = run(store, "q")[1]
    for text in ("[bold]p[/bold]", "[red]a[/red]", "[link=x]b"):
        assert text in shown
