from functools import partial

import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.logprobs import token_logprobs
from hydralign.rl.losses import (
    constant_length_mean,
    policy_loss_terms,
    sequence_mean,
    sequence_sum_mean,
    token_mean,
    value_loss_terms,
)
from hydralign.rl.masks import masked_sum
from hydralign.rl.minibatches import split_micro_batches

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-9, atol=1e-12)
NAN, INF = float("nan"), float("inf")
TERMS, MASK = f64([[1.0, 0, 0], [2, 2, 2]]), torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
AGGREGATES = [
    (token_mean, 1.75, [[0.25, 0, 0], [0.25, 0.25, 0.25]]),
    (sequence_mean, 1.5, [[0.5, 0, 0], [1 / 6, 1 / 6, 1 / 6]]),
    (sequence_sum_mean, 3.5, [[0.5, 0, 0], [0.5, 0.5, 0.5]]),
    (partial(constant_length_mean, length=4), 0.875, [[0.125, 0, 0], [0.125, 0.125, 0.125]]),
]


@pytest.mark.parametrize(("aggregate", "expected", "weights"), AGGREGATES)
@pytest.mark.parametrize("garbage", [0.0, 50.0, NAN, INF])
def test_aggregates_and_their_gradient_ignore_masked_terms(aggregate, expected, weights, garbage):
    terms = torch.where(MASK, TERMS, garbage).requires_grad_()
    loss = aggregate(terms, MASK)
    close(loss.detach(), f64(expected))
    loss.backward()
    close(terms.grad, f64(weights))


def test_micro_batch_sums_over_the_step_count_equal_the_token_mean():
    count = MASK.sum()
    parts = [masked_sum(TERMS[row : row + 1], MASK[row : row + 1]) / count for row in range(2)]
    close(sum(parts), f64(1.75))  # the mean of the two rows' means would be 1.5


@pytest.mark.parametrize("aggregate", [token_mean, sequence_mean, sequence_sum_mean])
def test_a_batch_without_counted_tokens_has_zero_loss(aggregate):
    terms = torch.full((3, 5), NAN, dtype=torch.float64)
    close(aggregate(terms, torch.zeros(3, 5, dtype=torch.bool)), f64(0.0))


def ppo_batch(garbage: float = 0.0):
    """Eight rows of five tokens, 1 to 5 kept in each; `garbage` fills what is not kept."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(8, 5, 3, generator=generator, dtype=torch.float64)
    old_logprobs, advantages, old_values, returns = torch.randn(
        4, 8, 5, generator=generator, dtype=torch.float64
    )
    ids = torch.randint(0, 7, (8, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2, 5, 4, 1, 2]).unsqueeze(1)
    fields = [old_logprobs - 2, advantages, old_values, returns]
    return features, ids, mask, [torch.where(mask, x, garbage) for x in fields]


def ppo_terms(batch, weight, rows):
    """Policy plus value loss of each token of `rows`, for a linear policy and value model."""
    features, ids, _, fields = batch
    old_logprobs, advantages, old_values, returns = (x[rows] for x in fields)
    outputs = features[rows] @ weight
    logprobs = token_logprobs(outputs[..., :7], ids[rows], temperature=0.7)
    policy = policy_loss_terms(logprobs, old_logprobs, advantages, clip_range=0.2)
    return policy + value_loss_terms(outputs[..., 7], old_values, returns, value_clip_range=0.2)


def new_weight():
    generator = torch.Generator().manual_seed(6)
    return torch.randn(3, 8, generator=generator, dtype=torch.float64).requires_grad_()


def full_batch_gradient(aggregate=token_mean):
    batch, weight = ppo_batch(), new_weight()
    aggregate(ppo_terms(batch, weight, torch.arange(8)), batch[2]).backward()
    return weight.grad


@pytest.mark.parametrize("micro_batch_size", [8, 4, 1, 5])
def test_gradient_does_not_depend_on_the_micro_batch_size(micro_batch_size):
    batch, weight = ppo_batch(), new_weight()
    mask = batch[2]
    for rows in split_micro_batches(torch.randperm(8), micro_batch_size):
        (masked_sum(ppo_terms(batch, weight, rows), mask[rows]) / mask.sum()).backward()
    close(weight.grad, full_batch_gradient())


AGGREGATE_FUNCTIONS = [a[0] for a in AGGREGATES]


@pytest.mark.parametrize("aggregate", AGGREGATE_FUNCTIONS)
def test_finite_garbage_under_the_mask_does_not_reach_the_gradient_of_the_model(aggregate):
    batch, weight = ppo_batch(garbage=1e30), new_weight()
    aggregate(ppo_terms(batch, weight, torch.arange(8)), batch[2]).backward()
    close(weight.grad, full_batch_gradient(aggregate))


@pytest.mark.parametrize("garbage", [NAN, INF])
def test_nan_under_the_mask_leaves_loss_and_gradient_of_kept_tokens_alone(garbage):
    _, _, mask, (old, advantages, _, _) = ppo_batch()
    losses, gradients = [], []
    for fill in (0.0, garbage):
        logprobs = (torch.where(mask, old, fill) + 0.05).requires_grad_()
        terms = policy_loss_terms(
            logprobs,
            torch.where(mask, old, fill),
            torch.where(mask, advantages, fill),
            clip_range=0.2,
        )
        loss = token_mean(terms, mask)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(logprobs.grad[mask])
    close(losses[1], losses[0])
    close(gradients[1], gradients[0])
