"""A data config as an object."""

from hydralign.data_source import drawn


def test_a_limit_draws_from_a_sorted_file_everywhere():
    chosen = drawn(list(range(1000)), 100)
    assert len(set(chosen)) == 100
    assert 380 < sum(chosen) / 100 < 620  # the first hundred would average 49.5
    assert drawn(list(range(1000)), 100) == chosen


def test_no_limit_takes_all_in_order():
    assert drawn([3, 1, 2], None) == [3, 1, 2]


def test_a_limit_above_what_there_is_takes_all_in_order():
    assert drawn([3, 1, 2], 9) == [3, 1, 2]
