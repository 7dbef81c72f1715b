import sys

import pytest

from hydralign.errors import UserError
from hydralign.labels.items import Submission
from hydralign.labels.progress import Work, agreement, places, progress

from .conftest import samples


def test_places_share_the_mean_of_a_tie():
    assert places([0, 1, 2]) == [0.0, 0.5, 1.0]
    assert places([0, 0, 2]) == [0.25, 0.25, 1.0]  # the first two places, 0 and 1/2, are shared
    assert places([1, 0, 1, 1]) == pytest.approx([2 / 3, 0.0, 2 / 3, 2 / 3])
    assert places([0, 0]) == [0.5, 0.5]


def test_alpha_by_hand():
    """Two annotators, two items of two responses; they agree on the first and not on the second.

    Four units with the places (0, 0), (1, 1), (0, 1), (1, 0). Values 0 and 1 both occur n = 4
    times. Ordinal distance: d = (4 + 4 - (4 + 4) / 2)^2 = 16. Observed: 2 of 4 units differ, so
    coincidences o_01 = o_10 = 2 of n = 8: D_o = 4 / 8 * 16 = 8. Expected:
    D_e = 2 * 4 * 4 / (8 * 7) * 16 = 64 / 7. alpha = 1 - 8 * 7 / 64 = 1/8.
    """
    rankings = [{"Ann": [0, 1], "Bea": [0, 1]}, {"Ann": [0, 1], "Bea": [1, 0]}]
    assert agreement(rankings) == pytest.approx(1 / 8)


def test_alpha_against_the_definition():
    """Coincidences added up one by one, with gaps, ties and items of different k."""
    rankings = [
        {"Ann": [0, 1, 2], "Bea": [1, 0, 2], "Cem": [0, 1, 1]},
        {"Ann": [0, 0, 2, 3], "Cem": [0, 1, 3, 2]},
        {"Bea": [0, 1, 2], "Cem": [2, 1, 0]},
        {"Bea": [0, 1, 2]},  # by one alone: does not count
    ]
    units = [
        [places(by[name])[response] for name in by]
        for by in rankings[:3]
        for response in range(len(next(iter(by.values()))))
    ]
    values = sorted({round(value, 9) for unit in units for value in unit})
    n = {v: sum(round(value, 9) == v for unit in units for value in unit) for v in values}

    def distance(a, b):
        low, high = sorted((a, b))
        between = sum(n[v] for v in values if low <= v <= high)
        return (between - (n[low] + n[high]) / 2) ** 2 if low != high else 0.0

    flat = [round(value, 9) for unit in units for value in unit]
    observed = sum(
        distance(round(a, 9), round(b, 9)) / (len(unit) - 1)
        for unit in units
        for i, a in enumerate(unit)
        for j, b in enumerate(unit)
        if i != j
    )
    expected = sum(
        distance(a, b) / (len(flat) - 1)
        for i, a in enumerate(flat)
        for j, b in enumerate(flat)
        if i != j
    )
    assert agreement(rankings) == pytest.approx(1 - observed / expected, rel=1e-6)


def test_full_agreement_and_nothing_to_compare():
    assert agreement([{"Ann": [2, 0, 1], "Bea": [2, 0, 1]}]) == pytest.approx(1.0)
    assert agreement([{"Ann": [1, 0]}, {"Bea": [0, 1]}]) is None
    assert agreement([{"Ann": [0, 0], "Bea": [0, 0]}]) is None  # one value: nothing varies
    assert agreement([]) is None


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    assert agreement([{"Ann": [0, 1]}]) is None  # nothing to compare
    with pytest.raises(UserError, match=r"pip install -e '\.\[label\]'"):
        agreement([{"Ann": [0, 1], "Bea": [0, 1]}])


def test_counts(store):
    store.add(samples(4))
    store.share_out(0.5, 2)
    for name, ranks, seconds in (
        ("Ann", (0, 1, 2), 3.0),
        ("Ann", (0, 0, 2), 8.0),
        ("Ann", None, 1.0),
        ("Bea", (0, 1, 2), None),
    ):
        store.save(Submission(store.next(name).item, name, ranks, seconds=seconds))
    undone = store.next("Bea")
    store.undo("Bea", store.save(Submission(undone.item, "Bea", (0, 1, 2))))
    found = progress(store.reading())
    assert (found.items, found.wanted, found.rankings) == (4, 6, 3)
    assert found.annotators == [Work("Ann", 2, 1, 5.5), Work("Bea", 1, 0, None)]
    assert found.compared_items in (0, 1)
    assert found.ranked_items == 3 - found.compared_items
