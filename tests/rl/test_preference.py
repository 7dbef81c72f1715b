from functools import partial
from itertools import combinations, permutations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hydralign.rl.preference import (
    best_of_k_loss,
    centering_penalty,
    pairwise_accuracy,
    pairwise_loss,
    plackett_luce_loss,
)

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-8, atol=1e-11)
RANKED = f64([2.0, 1.0, 0.5, -1.0])  # scores of four responses, best first


def test_bradley_terry_loss_and_its_gradient():
    chosen, rejected = f64([1.0, 0.0, 3.0]).requires_grad_(), f64([0.2, 0.0, 103.0])
    loss = pairwise_loss(chosen, rejected)  # differences .8, 0, -100
    close(loss.detach(), f64([0.3711006659, 0.6931471806, 100.0]))
    loss.sum().backward()
    close(chosen.grad, f64([-0.3100255189, -0.5, -1.0]))


def test_margin_is_subtracted_from_the_difference():
    loss = pairwise_loss(f64([1.0, 1.0]), f64([0.2, 0.2]), margin=0.5)
    close(loss, f64([0.5543552445] * 2))
    per_pair = pairwise_loss(f64([1.0, 1.0]), f64([0.2, 0.2]), margin=f64([0.5, 0.0]))
    close(per_pair, f64([0.5543552445, 0.3711006659]))


@pytest.mark.parametrize("difference", [-1e4, 1e4])
def test_extreme_differences_give_finite_losses_and_gradients(difference):
    first = f64([difference] * 3).requires_grad_()
    loss = pairwise_loss(first, f64([0.0] * 3), target=f64([1.0, 0.0, 0.5]))
    wrong = [0.0, 1e4, 5e3] if difference > 0 else [1e4, 0.0, 5e3]
    close(loss.detach(), f64(wrong))
    loss.sum().backward()
    assert torch.isfinite(first.grad).all()


def test_a_tie_costs_the_same_whoever_scores_higher():
    loss = pairwise_loss(f64([0.8, 0.0, 0.5]), f64([0.0, 0.8, 0.5]), target=0.5)
    # (softplus(-.8) + softplus(.8)) / 2 = .3711006659 + .4
    close(loss, f64([0.7711006659, 0.7711006659, 0.6931471806]))


def test_soft_targets_mix_the_two_orders():
    loss = pairwise_loss(f64([1.0, 1.0, 1.0]), f64([0.0] * 3), target=f64([1.0, 0.9, 0.0]))
    close(loss, f64([0.3132616875, 0.4132616875, 1.3132616875]))


def test_swapping_the_two_responses_and_the_target_changes_nothing():
    first, second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    target = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).double()
    loss = pairwise_loss(first, second, target=target)
    assert loss.shape == (3, 5)
    close(pairwise_loss(second, first, target=1 - target), loss)
    expected = F.binary_cross_entropy_with_logits(first - second, target, reduction="none")
    close(loss, expected)


def test_centering_penalty_is_the_squared_sum():
    penalty = centering_penalty(f64([1.0, 1.0, -2.0]), f64([0.2, -1.0, -1.0]))
    close(0.01 * penalty, f64([0.0144, 0.0, 0.09]))


def test_accuracy_counts_equal_scores_half_and_follows_the_target():
    first, second = f64([2.0, 1.0, 1.0, 2.0, 1.0, 1.0]), f64([1.0, 2.0, 1.0, 1.0, 2.0, 1.0])
    target = f64([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert pairwise_accuracy(first, second, target).tolist() == [1.0, 0.0, 0.5, 0.0, 1.0, 0.5]


def test_all_pairs_of_a_ranking_of_four():
    better, worse = map(list, zip(*combinations(range(4), 2), strict=True))
    loss = pairwise_loss(RANKED[better], RANKED[worse])
    expected = [0.31326169, 0.20141328, 0.04858736, 0.47407698, 0.12692801, 0.20141328]
    assert_close(loss, f64(expected), rtol=1e-6, atol=1e-9)
    close(loss.mean(), f64(0.2276134317))


def test_best_of_four_is_the_cross_entropy_of_the_best():
    close(best_of_k_loss(RANKED, 0), f64(0.4951818981))
    scores = RANKED.clone().requires_grad_()
    best_of_k_loss(scores, 2).backward()
    close(scores.grad, torch.softmax(RANKED, 0) - f64([0.0, 0.0, 1.0, 0.0]))


def test_plackett_luce_of_a_ranking_of_four():
    close(plackett_luce_loss(RANKED), f64(1.2515520957))
    close(plackett_luce_loss(RANKED[:2]), f64(0.3132616875))  # two responses: Bradley-Terry
    close(plackett_luce_loss(RANKED + 1000), f64(1.2515520957))


def test_plackett_luce_probabilities_of_all_rankings_sum_to_one():
    losses = [plackett_luce_loss(RANKED[list(order)]) for order in permutations(range(4))]
    close(torch.exp(-torch.stack(losses)).sum(), f64(1.0))


def test_plackett_luce_gradient_with_a_huge_gap_is_finite():
    scores = f64([-1e4, 0.0, 1e4]).requires_grad_()
    loss = plackett_luce_loss(scores)  # 2e4 for the first place, 1e4 for the second
    loss.backward()
    close(loss.detach(), f64(3e4))
    close(scores.grad, f64([-1.0, -1.0, 2.0]))
