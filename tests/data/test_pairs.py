"""Rankings cut into comparisons of two."""

from hydralign.data.pairs import in_pairs
from hydralign.data.records import Comparison


def test_a_ranking_is_cut_into_comparisons_of_two_without_ties():
    whole = Comparison("p", ("a", "b", "c"), (1.0, 0.0, 1.0), (2.0, 3.5, 2.0), row=7)
    assert in_pairs(whole) == [
        Comparison("p", ("a", "b"), (1.0, 0.0), (2.0, 3.5)),
        Comparison("p", ("b", "c"), (0.0, 1.0), (3.5, 2.0)),
    ]
    assert {pair.row for pair in in_pairs(whole)} == {7}
    assert in_pairs(Comparison("p", ("a", "b"), (1.0, 0.0)))[0].ratings is None
