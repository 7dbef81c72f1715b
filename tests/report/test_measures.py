"""The figures behind the pictures, by hand."""

from math import exp, isclose
from statistics import correlation as pearson

import numpy as np
import pytest

from hydralign.report.measures import (
    Margins,
    bootstrap,
    by_gap,
    calibration,
    calibration_error,
    correlation,
    longer_preferred,
    margins,
    root_kl,
    shares,
    smooth,
)
from hydralign.report.pairs import span


def made(margin, right, prompts=None):
    return Margins(np.array(margin), np.array(right, dtype=float), prompts or np.arange(len(right)))


def test_margins_are_the_preferred_less_the_other(pairs):
    found = margins(pairs)
    assert found.margin.tolist() == [0.5, 0.5, 0.0, -1.0]
    assert found.right.tolist() == [1.0, 1.0, 0.5, 0.0]
    assert found.prompts.tolist() == [0, 0, 0, 1]


def test_calibration_bins_hold_the_pairs_of_their_probability():
    # With 2 units of log-odds: 1 / (1 + e^-0.2) = .5498, 1 / (1 + e^-2) = .8808, twice.
    found = calibration(made([0.1, -1.0, 1.0], [1, 0, 1]), log_odds=2.0)
    assert [(round(s.start, 2), round(s.end, 2), s.pairs) for s in found] == [
        (0.5, 0.55, 1),
        (0.85, 0.9, 2),
    ]
    assert [s.right.mean for s in found] == [1.0, 0.5]
    assert isclose(found[0].centre, 1 / (1 + exp(-0.2)))
    # (|.5498 - 1| * 1 + |.8808 - .5| * 2) / 3
    assert calibration_error(found) == pytest.approx((0.45017 + 2 * 0.38080) / 3, abs=1e-4)


def test_a_model_that_is_quite_sure_falls_in_the_last_bin():
    (found,) = calibration(made([1e3], [1]), log_odds=1.0)
    assert (round(found.start, 2), found.end, found.centre) == (0.95, 1.0, 1.0)


def test_gaps_are_cut_into_parts_of_equal_size():
    found = by_gap(made([1.0] * 6, [0, 1, 0, 0, 1, 1]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], most=3)
    assert [(s.pairs, s.centre, s.right.mean) for s in found] == [
        (2, 1.5, 0.5),
        (2, 3.5, 0.0),
        (2, 5.5, 1.0),
    ]
    assert [(s.least, s.most) for s in found] == [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)]
    assert [span(part) for part in found] == ["1 to 2", "3 to 4", "5 to 6"]


def test_pairs_without_ratings_are_left_out():
    found = by_gap(made([1.0] * 3, [1, 0, 1]), [None, 2.0, None])
    assert [(s.least, s.most, s.pairs, s.right.mean) for s in found] == [(2.0, 2.0, 1, 0.0)]
    assert by_gap(made([1.0], [1]), [None]) == []


def test_what_lies_on_an_edge_belongs_above_it_but_for_the_last():
    found = shares(
        made([1.0] * 4, [0, 1, 1, 0]), np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])
    )
    assert [(s.start, s.pairs, s.right.mean) for s in found] == [(1.0, 1, 0.0), (2.0, 3, 2 / 3)]


def test_each_gap_is_a_part_of_its_own_where_there_are_few():
    gaps = [1.0] * 5 + [2.0] * 3 + [3.0, 4.1 - 1.1]  # the last one is 2.9999999999999996
    found = by_gap(made([1.0] * 10, [1, 1, 0, 0, 0, 1, 1, 1, 1, 0]), gaps)
    assert [(span(s), s.pairs, s.right.mean) for s in found] == [
        ("1", 5, 0.4),
        ("2", 3, 1.0),
        ("3", 2, 0.5),
    ]


def test_a_gap_that_most_pairs_share_is_not_mixed_with_its_neighbour():
    found = by_gap(made([1.0] * 12, [1] * 12), [1.0, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7], most=3)
    # Parts begin at the places 11 / 3 and 22 / 3 of the sorted gaps: at 4.67 and at 7.
    assert [(span(s), s.pairs) for s in found] == [("1 to 4", 4), ("5 to 6", 2), ("7", 6)]


def test_intervals_draw_whole_groups():
    # Each group is half right, so however they are drawn the mean is one half.
    assert bootstrap([0, 1] * 12, np.repeat(np.arange(12), 2)) == (0.5, 0.5, 0.5)
    assert bootstrap([0.25] * 7) == (0.25, 0.25, 0.25)
    # Binomial(100, .5): the 2.5 % quantile is 40, the 97.5 % quantile 60.
    found = bootstrap([0.0] * 50 + [1.0] * 50)
    assert (found.low, found.high) == (pytest.approx(0.40, abs=0.021), pytest.approx(0.6, abs=0.02))


def test_the_correlation_is_pearsons():
    x, y = [1.0, 2.0, 4.0, 7.0, 7.0], [0.3, -1.0, 2.0, 1.0, 5.0]
    assert correlation(x, y) == pytest.approx(pearson(x, y))
    assert correlation([2, 2, 2], [1, 2, 3]) is None
    assert correlation([2], [1]) is None


def test_the_longer_response_is_counted_where_lengths_differ(pairs):
    # Lengths of the pairs: 5 and 3, 5 and 4, 3 and 4, 7 and 7: people like the longer in two of 3,
    # the model in the first two and half in the third, where it scores both alike.
    assert longer_preferred(pairs) == pytest.approx(2 / 3)
    assert longer_preferred(pairs, margins(pairs).margin) == pytest.approx(2.5 / 3)


def test_a_negative_estimate_of_the_kl_is_no_distance():
    assert root_kl([4.0, -0.3, 0.25]).tolist() == [2.0, 0.0, 0.5]


def test_a_line_is_smoothed_over_what_came_before():
    assert smooth([1.0, 3.0, 5.0, 7.0], window=2) == [1.0, 2.0, 4.0, 6.0]
