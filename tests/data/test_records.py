import pytest

from hydralign.data.pairs import preference_pairs
from hydralign.data.records import (
    BadRow,
    Comparison,
    Demonstration,
    Message,
    Prompt,
    ranks_from_ratings,
)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Demonstration("p", " \n"), "empty response"),
        (lambda: Comparison("p", ("a",), (0,)), "1 responses, wanted at least 2"),
        (lambda: Comparison("p", ("a", "b"), (0, 1, 2)), "2 responses but 3 ranks"),
        (lambda: Comparison("p", ("a", "b"), (0, 1), (1.0,)), "2 responses but 1 ratings"),
        (lambda: Comparison("p", ("a", "b", "c"), (1, 1, 1)), "only ties"),
        (lambda: Comparison("p", ("a", ""), (0, 1)), "empty response"),
        (lambda: Prompt("  "), "empty prompt"),
        (lambda: Prompt(()), "empty prompt"),
        (lambda: Message("robot", "hi"), "role 'robot', wanted one of system, user, assistant"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(make, reason):
    with pytest.raises(BadRow) as caught:
        make()
    assert str(caught.value) == reason


def test_the_empty_prompt_is_fine_where_responses_are_given():
    assert Demonstration("", "a").prompt == Comparison("", ("a", "b"), (0, 1)).prompt == ""


def test_the_row_number_is_no_part_of_what_a_record_says():
    assert Demonstration("p", "r", row=3) == Demonstration("p", "r", row=4)


def test_equal_ratings_tie_and_count_for_those_below():
    assert ranks_from_ratings((1.5, 3.0, 1.5, -2.0)) == (1, 0, 1, 3)


def triples(pairs):
    return [(pair.first, pair.second, pair.target) for pair in pairs]


def test_all_pairs_the_better_one_first_and_ties_at_one_half():
    comparison = Comparison("p", ("a", "b", "c"), (2, 0, 2))
    assert triples(preference_pairs(comparison)) == [(1, 0, 1), (0, 2, 0.5), (1, 2, 1)]


def test_pairs_closer_than_the_gap_are_left_out():
    ratings = (2.3, 1.3, 1.4)  # 2.3 - 1.3 is 0.9999999999999998
    comparison = Comparison("p", ("a", "b", "c"), (0, 2, 1), ratings)
    assert triples(preference_pairs(comparison, 1.0)) == [(0, 1, 1)]
    assert triples(preference_pairs(comparison, 0.9)) == [(0, 1, 1), (0, 2, 1)]


def test_without_ratings_no_gap_can_be_asked_for():
    assert len(preference_pairs(Comparison("p", ("a", "b"), (0, 1)), 5.0)) == 1
