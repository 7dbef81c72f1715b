"""Rules as scorers: what they are given, what becomes of their mistakes, and sums of them."""

import pytest
import torch

from hydralign.errors import UserError
from hydralign.micro_batches import MicroBatches
from hydralign.rewards.scorers import RewardModelScorer, RuleScorer, WeightedScorer
from hydralign.rl.sequences import pad_sequences
from hydralign.rollout.sampling import Responses

SEQUENCES = pad_sequences([[9], [9, 9], [9]], [[5, 2], [5, 6, 7], [2]], pad_id=0)
RESPONSES = Responses(
    SEQUENCES, torch.tensor([True, False, True]), ("p", "pp", ""), ("ab", "", "c"), ("1", None, "x")
)


def scored(rule):
    return RuleScorer(rule, "mine")(RESPONSES)


def test_a_rule_reads_prompts_responses_and_answers():
    def rule(prompts, responses, answers):
        rows = zip(prompts, responses, answers, strict=True)
        return [100 * len(p) + 10 * len(r) + len(a or "") for p, r, a in rows]

    scores = scored(rule)
    assert (scores.tolist(), scores.dtype) == ([121.0, 200.0, 11.0], torch.float32)


def test_a_rule_may_return_tensors_and_truths():
    assert scored(lambda p, r, a: torch.tensor([0.5, 1.5, 2.5])).tolist() == [0.5, 1.5, 2.5]
    assert scored(lambda p, r, a: [len(text) > 1 for text in r]).tolist() == [1.0, 0.0, 0.0]


def test_a_rule_that_raises_names_itself_and_the_row():
    with pytest.raises(UserError) as error:
        scored(lambda p, r, a: [float(len(answer)) for answer in a])
    assert str(error.value) == (
        "The scorer mine raised TypeError: object of type 'NoneType' has no len()\n"
        "It was given row 1:\n  prompt:   'pp'\n  response: ''\n  answer:   None"
    )


def test_a_rule_that_raises_on_none_by_itself_says_so():
    def rule(prompts, responses, answers):
        raise ZeroDivisionError("too many") if len(prompts) > 1 else StopAsyncIteration

    def only_together(prompts, responses, answers):
        if len(prompts) > 1:
            raise ZeroDivisionError("too many")
        return [0.0]

    with pytest.raises(UserError, match="ZeroDivisionError: too many\nIt was given row 0:"):
        scored(rule)
    with pytest.raises(UserError, match="too many\nEach of the 3 rows by itself it can score"):
        scored(only_together)


def test_too_few_scores_and_what_is_no_number_are_told():
    with pytest.raises(UserError, match="mine returned 2 scores for 3 responses. It must return"):
        scored(lambda p, r, a: [1.0, 2.0])
    with pytest.raises(UserError, match="mine gave None, which is no number, to row 2:\n  prompt:"):
        scored(lambda p, r, a: [1.0, 2.0, None])


class Model:
    """Stands in for a reward model whose scores are known."""

    class head:
        seen = (-1.0, 2.0)

    @staticmethod
    def scores(sequences):
        return sequences.response_mask.sum(-1).float()


def test_a_sum_weighs_and_remembers_its_parts():
    model = RewardModelScorer(Model, MicroBatches(2))
    rule = RuleScorer(lambda p, r, a: [1.0, 0.0, -1.0], "mine")
    both = WeightedScorer([("reward_model", 0.5, model), ("mine", 3.0, rule)])
    assert both(RESPONSES).tolist() == [1.0 + 3.0, 1.5, 0.5 - 3.0]  # of 2, 3 and 1 tokens
    assert both.means == {"reward_model": 2.0, "mine": 0.0}


def test_both_of_two_equal_names_count():
    twice = [RuleScorer(lambda p, r, a, x=x: [x] * 3) for x in (1.0, 10.0)]
    both = WeightedScorer([("rule", 1.0, twice[0]), ("rule", 0.5, twice[1])])
    assert both(RESPONSES).tolist() == [6.0] * 3


def test_all_processes_go_by_the_first_ones_rule():
    class Second:
        gather = staticmethod(lambda mine: [[7.0] * len(mine), mine])

    assert RuleScorer(lambda p, r, a: [1.0] * 3, ranks=Second())(RESPONSES).tolist() == [7.0] * 3


def test_a_rule_that_returns_nothing_says_so():
    with pytest.raises(UserError, match="mine returned None, wanted a list of numbers"):
        scored(lambda p, r, a: None)


def test_a_range_is_known_of_a_reward_model_alone():
    model = RewardModelScorer(Model, MicroBatches(2))
    rule = RuleScorer(lambda p, r, a: [0.0] * 3)
    assert WeightedScorer([("reward_model", 1.0, model)]).seen == (-1.0, 2.0)
    assert WeightedScorer([("reward_model", 2.0, model)]).seen is None
    assert WeightedScorer([("rule", 1.0, rule)]).seen is None
    assert WeightedScorer([("reward_model", 1.0, model), ("rule", 1.0, rule)]).seen is None
