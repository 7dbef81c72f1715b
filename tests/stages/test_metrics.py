"""Figures by hand from a rollout of three responses with 2, 3 and 1 tokens."""

import math

import torch
from torch.testing import assert_close

from hydralign.memory import peak_memory_gb
from hydralign.rl.experience import Experience
from hydralign.rl.sequences import pad_sequences
from hydralign.rollout.collect import Rollout
from hydralign.rollout.sampling import Responses
from hydralign.stages.averages import Averages
from hydralign.stages.evaluation import Answers, HeadToHead
from hydralign.stages.metrics import (
    perf_metrics,
    policy_metrics,
    rollout_line,
    rollout_metrics,
)

NAN = float("nan")
SEQUENCES = pad_sequences([[9], [9, 9], [9]], [[5, 2], [5, 6, 7], [2]], pad_id=0)


def responses(texts=("ab cd", "ab cd", "")):
    finished = torch.tensor([True, False, True])
    return Responses(SEQUENCES, finished, ("p", "pp", "ppp"), texts, (None,) * 3)


def rollout():
    old = torch.tensor([[-1.0, -2.0, NAN], [-1.0, -1.0, -3.0], [-0.5, NAN, NAN]])
    reference = torch.tensor([[-1.5, -2.0, NAN], [-1.0, -1.25, -2.0], [-0.75, NAN, NAN]])
    return Rollout(
        responses=responses(),
        old_logprobs=old,
        entropy=torch.tensor([[1.0, 2.0, NAN], [3.0, 4.0, 5.0], [6.0, NAN, NAN]]),
        ref_logprobs=reference,
        scores=torch.tensor([1.0, 2.0, 6.0]),
    )


def test_rollout_figures():
    metrics = rollout_metrics(rollout(), 0.5, seen=[1.0, 5.0])
    kl = (0.5 + (0.25 - 1.0) + 0.25) / 3  # log-ratios summed over each response, then averaged
    k3 = [math.expm1(-d) + d for d in (0.5, 0.0, 0.0, 0.25, -1.0, 0.25)]
    expected = {
        "rollout/response_length": 2.0,
        "rollout/eos_rate": 2 / 3,
        "rollout/distinct_responses": 2 / 3,
        "reward/score": 3.0,
        "reward/outside_range": 1 / 3,
        "reward/score_std": math.sqrt((4 + 1 + 9) / 3),
        "reward/score_minus_kl": 3.0 - 0.5 * kl,
        "kl/per_sequence": kl,
        "kl/k3_per_token": sum(k3) / 6,
        "kl/coef": 0.5,
        "policy/entropy": 21 / 6,
    }
    assert metrics.keys() == expected.keys()
    assert_close(metrics, expected, rtol=1e-6, atol=1e-6)


def test_policy_figures_are_means_over_tokens_of_all_micro_batches():
    old = torch.zeros(3, 3)
    batch = Experience(SEQUENCES, old, torch.zeros(3, 3))
    now = torch.tensor([[0.5, 0.5, NAN], [0.1, -0.5, -0.5], [0.0, NAN, NAN]])
    averages = Averages()
    for rows in ([0, 1], [2]):
        index = torch.tensor(rows)
        policy_metrics(averages, now[index], batch.select(index))
    means = averages.means()
    # k3 with the old policy as the one that sampled: exp(log ratio) - 1 - log ratio
    k3 = [math.expm1(d) - d for d in (0.5, 0.5, 0.1, -0.5, -0.5, 0.0)]
    assert_close(means["policy/approx_kl"], sum(k3) / 6, rtol=1e-5, atol=0)
    assert means["policy/log_ratio_max"] == 0.5
    assert_close(means["policy/log_ratio_square"], (4 * 0.25 + 0.01) / 6, rtol=1e-5, atol=0)


def test_averages_are_no_means_of_means():
    averages = Averages()
    averages.add("x", torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    averages.add("x", torch.tensor([[6.0]]))
    averages.add("y", torch.tensor([NAN]), torch.tensor([False]))
    averages.add("z", torch.tensor(4.0))
    assert averages.means() == {"x": 3.0, "z": 4.0}  # of nothing there is no mean


def test_a_maximum_is_over_all_pieces_and_under_the_mask():
    averages = Averages()
    averages.add_max("x", torch.tensor([-3.0, 9.0]), torch.tensor([True, False]))
    averages.add_max("x", torch.tensor([-5.0, -4.0]), torch.tensor([True, True]))
    assert averages.means() == {"x": -3.0}
    averages.add_max("x", torch.tensor([NAN]), torch.tensor([True]))
    averages.add_max("x", torch.tensor([1.0]), torch.tensor([True]))
    assert math.isnan(averages.means()["x"])


def test_speed_counts_response_tokens_over_all_phases():
    metrics = perf_metrics(rollout(), {"generate": 1.5, "score": 0.25, "train": 0.25})
    assert metrics["perf/generate_seconds"] == 1.5
    assert metrics["perf/response_tokens_per_second"] == 6 / 2.0
    assert 0.05 < metrics["perf/peak_memory_gb"] == peak_memory_gb() < 100


def test_the_line_of_a_rollout():
    metrics = rollout_metrics(rollout(), 0.5, seen=[1.0, 5.0])
    metrics |= perf_metrics(rollout(), {"generate": 2.0})
    assert rollout_line(7, 80, metrics) == (
        "rollout    7/80 | score  +3.00 | KL   0.00 nats/response | length   2.0"
        " | stopped  67% | entropy 3.50 |     3 tokens/s"
    )


def test_wins_count_half_for_ties_and_texts_are_told_apart():
    def answers(scores, texts):
        return Answers([responses(texts)], torch.tensor(scores), torch.tensor(scores) * 10)

    duel = HeadToHead(
        before=None,
        after=None,
        scorer=None,
        gold=None,
        codec=None,
        sampling=None,
        micro_batches=None,
        seed=0,
    )
    duel.kl_per_sequence = lambda _: 0.125
    before = answers([0.0, 1.0, 2.0], ("a b", "a b", "c"))
    after = answers([1.0, 1.0, 1.5], ("a b a b", "b a", "a"))
    figures = duel.figures(before, after)
    assert figures["win_rate"] == (1 + 0.5 + 0) / 3
    assert figures["win_rate_low"] < 0.5 < figures["win_rate_high"]
    assert_close(figures["gold_after"] - figures["gold_before"], 35 / 3 - 10, rtol=1e-5, atol=0)
    assert figures["distinct_responses_before"] == 2 / 3
    assert figures["distinct_responses"] == 1.0
    assert figures["distinct_bigrams_before"] == 1 / 2  # (a b) twice
    assert figures["distinct_bigrams"] == 2 / 4  # (a b) twice, (b a) twice
    assert_close(figures["eos_rate"], 2 / 3, rtol=1e-6, atol=0)
    assert figures["response_length"] == 2.0
    assert (figures["prompts"], figures["kl_per_sequence"]) == (3.0, 0.125)
