"""Accuracy on held-out pairs, and its interval over prompts."""

import pytest
import torch

from hydralign.data.collate import collate_comparisons
from hydralign.data.examples import ComparisonExample, Pair
from hydralign.stages.pairs import HeldOutPairs, PairRows


def compared(prompt, *scores):
    """A comparison whose first response people preferred to all others, and what they score."""
    pairs = [Pair(0, other, 1.0) for other in range(1, len(scores))]
    return ComparisonExample(prompt, [[20 + i] for i in range(len(scores))], pairs), scores


def held_out(*batches):
    """Batches of comparisons with their scores."""
    found = HeldOutPairs()
    for batch in batches:
        examples = [example for example, _ in batch]
        scores = torch.tensor([score for _, scores in batch for score in scores])
        found.add(scores, collate_comparisons(examples, examples, pad_id=0))
    return found


def test_a_prompt_that_several_people_ranked_is_one_of_the_interval():
    right, wrong = compared([1, 7], 2.0, 1.0), compared([1, 7], 1.0, 2.0)
    # 0 is <pad>, and a token of the shorter prompt, too.
    found = held_out([right, wrong, right], [wrong, compared([0, 1, 7], 2.0, 1.0, 0.0, 3.0)])
    figures = found.figures(seed=0)
    assert figures["pair_accuracy"] == pytest.approx(4 / 7)
    # Two prompts with means 1/2 and 2/3: nothing that is drawn of them lies outside.
    assert figures["pair_accuracy_low"] == pytest.approx(1 / 2)
    assert figures["pair_accuracy_high"] == pytest.approx(2 / 3)
    assert figures["pairs"] == 7


def test_the_figures_begin_anew_each_time():
    found = held_out([compared([1], 1.0, 2.0)])
    assert found.accuracy() == 0
    examples = [compared([1], 2.0, 1.0)[0]]
    found.add(torch.tensor([2.0, 1.0]), collate_comparisons(examples, examples, pad_id=0))
    assert found.accuracy() == 1


def test_comparisons_without_a_prompt_are_each_one_of_the_interval():
    """Whole sentences: they share no prompt, though all begin alike."""
    right, wrong = compared([1], 2.0, 1.0), compared([1], 1.0, 2.0)
    figures = held_out([right, wrong], [right], [wrong]).figures(seed=0)
    # Four prompts of 1, 0, 1 and 0: one draw in sixteen gives none or all of them.
    assert figures["pair_accuracy"] == 0.5
    assert figures["pair_accuracy_low"] == pytest.approx(0.0, abs=0.26)
    assert figures["pair_accuracy_high"] == pytest.approx(1.0, abs=0.26)
    assert figures["pair_accuracy_low"] < 0.5 < figures["pair_accuracy_high"]


def test_the_rows_of_a_report_tell_prompts_apart_alike():
    rows = PairRows("points")
    for batch in ([compared([1], 2.0, 1.0), compared([1, 7], 1.0, 2.0, 0.0)],) * 2:
        examples = [example for example, _ in batch]
        scores = torch.tensor([score for _, scores in batch for score in scores])
        rows.add(scores, collate_comparisons(examples, examples, pad_id=0))
    assert rows.outcomes(None).prompts == [0, 1, 1, 2, 1, 1]
