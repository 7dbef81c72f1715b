"""Rules, on responses whose scores anyone can tell."""

from decimal import Decimal

import pytest

from hydralign.rewards.rules import exact_number, final_number, length, matches, sections


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so she has 5 apples left.", "5"),
        ("5 + 7 = 12, and no more", "12"),
        ("1 of 2\n#### 72", "72"),
        ("#### 72\nwhich took 3 steps", "72"),
        ("#### 10\nno:\n#### 20", "20"),
        (r"thus \boxed{1,234.50} of 9", "1234.5"),
        ("$1,000,000 in all", "1000000"),
        ("it falls to -3.5 degrees", "-3.5"),
        ("half: .5", "0.5"),
        ("in 2024.", "2024"),
        ("none at all", None),
        ("", None),
        ("#### forty", None),
    ],
)
def test_the_number_a_text_arrives_at(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_an_answer_is_right_whatever_its_dress():
    responses = ["It is 42.0", "41", "#### $42", "nothing", "42 or 43"]
    assert exact_number([""] * 5, responses, ["42", "42", "42", "42", "x\n#### 42"]) == [
        *(1.0, 0.0, 1.0, 0.0, 0.0)
    ]


def test_an_answer_without_a_number_is_no_answer():
    with pytest.raises(ValueError, match="answer is None, which has no number"):
        exact_number(["", ""], ["1", "2"], ["1", None])


def test_a_pattern_is_sought_over_several_lines():
    found = matches(["a.b"] * 3, ["xa\nby", "ab", "a-b"], [None] * 3, pattern="a.b")
    assert found == [1.0, 0.0, 1.0]


def test_length_costs_nothing_within_bounds_and_at_most_1():
    texts = ["", "one", "one two", " three  words here", "a b c d e", "a b c d e f g h i"]
    given = (texts, texts, [None] * 6)
    assert length(*given, least=2, most=4) == [-1.0, -0.5, 0.0, 0.0, -0.25, -1.0]
    assert length(*given) == [0.0] * 6
    assert length(*given, most=0) == [0.0, -1.0, -1.0, -1.0, -1.0, -1.0]


def test_sections_stand_once_each_and_in_order():
    right = "<think>so\nit is</think>\n <answer>4</answer>"
    wrong = [
        "<answer>4</answer><think>so</think>",
        "<think>so</think>",
        "<think>a</think><think>b</think><answer>4</answer>",
        "<think>so</think><answer>4</answer> and more",
        "<think>so<answer>4</answer>",
        "<think>so</think><answer><answer>4</answer>",
        "",
    ]
    texts = [right, f" {right}\n", *wrong]
    assert sections(texts, texts, [None] * 9) == [1.0, 1.0, *[0.0] * 7]
    assert sections([""], ["<a.b>x</a.b>"], [None], names=["a.b"]) == [1.0]
