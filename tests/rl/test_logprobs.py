from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hydralign.rl.logprobs import (
    in_chunks,
    token_logprobs,
    token_logprobs_and_entropy,
    with_row_gradients,
)

f64 = partial(torch.tensor, dtype=torch.float64)
LOGITS = f64([1.0, 2.0, 3.0])


def random_logits(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 7, (3, 5), generator=generator)
    return logits.to(dtype), ids


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.7, [-3.11726126, -1.68868983, -0.2601184]),
        (1.0, [-2.40760596, -1.40760596, -0.40760596]),
    ],
)
def test_logprobs_divide_the_logits_by_the_temperature(temperature, expected):
    logprobs = token_logprobs(LOGITS.expand(3, 3), torch.arange(3), temperature=temperature)
    assert_close(logprobs, f64(expected), rtol=1e-7, atol=1e-8)


def test_entropy_of_the_golden_logits():
    assert_close(entropy_of(LOGITS), f64(0.8323955818), rtol=1e-9, atol=0)


def test_logprobs_pick_each_positions_own_id():
    logits, ids = random_logits()
    expected = -F.cross_entropy(logits.reshape(15, 7), ids.reshape(15), reduction="none")
    assert_close(token_logprobs(logits, ids), expected.reshape(3, 5), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_entropy_is_that_of_the_tempered_distribution(temperature):
    logits, _ = random_logits()
    weights = np.exp(logits.numpy() / temperature)
    probs = weights / weights.sum(-1, keepdims=True)
    expected = torch.from_numpy(-(probs * np.log(probs)).sum(-1))
    entropy = entropy_of(logits, temperature)
    assert_close(entropy, expected, rtol=1e-9, atol=1e-12)


def test_entropy_of_a_uniform_and_of_a_certain_token():
    uniform = entropy_of(torch.zeros(2, 7).double())
    assert_close(uniform, f64([1.945910149055] * 2), rtol=1e-9, atol=0)  # ln 7
    certain = entropy_of(f64([0.0, 1e4, 0.0]))  # exp underflows to 0: 0 * log 0 must be 0
    assert_close(certain, f64(0.0), rtol=0, atol=1e-12)


def test_entropy_gradient_matches_autograd_of_torch_distributions():
    logits, _ = random_logits()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    entropy_of(ours).sum().backward()
    torch.distributions.Categorical(logits=theirs).entropy().sum().backward()
    assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprob_gradient_is_one_hot_minus_probabilities(temperature):
    logits, ids = random_logits()
    logits.requires_grad_()
    token_logprobs(logits, ids, temperature=temperature).sum().backward()
    probs = torch.softmax(logits.detach() / temperature, -1)
    expected = (F.one_hot(ids, 7) - probs) / temperature  # d log p_i / d z = (1_i - p) / T
    assert_close(logits.grad, expected, rtol=1e-8, atol=1e-12)


def test_the_gradient_of_a_nearly_certain_token_is_not_lost_in_half_precision():
    logits = torch.tensor([8.0, 0.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    token_logprobs(logits, torch.tensor(0)).backward()
    rest = 3.807176e-4  # (e^-8 + e^-10) / (1 + e^-8 + e^-10); what bf16 rounds 1 - p to is 0
    expected = [rest, -3.353349e-4, -4.538265e-5]
    assert_close(logits.grad.float(), torch.tensor(expected), rtol=4e-3, atol=0)  # bf16


def test_its_probabilities_are_not_used_up_in_silence():
    logits, ids = random_logits()
    logprobs = token_logprobs(logits.requires_grad_(), ids).sum()
    logprobs.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.backward()


def test_huge_logits_stay_finite():
    logits = f64([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    logprobs = token_logprobs(logits, torch.tensor([1, 2]))
    assert_close(logprobs, f64([-2e4, -1.0986122887]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_upcast_before_the_softmax(dtype):
    logits, ids = random_logits(dtype)
    logprobs, entropy = token_logprobs_and_entropy(logits, ids)
    assert logprobs.dtype == entropy.dtype == torch.float32
    exact = torch.distributions.Categorical(logits=logits.double())
    assert_close(logprobs.double(), exact.log_prob(ids), rtol=1e-6, atol=1e-6)
    assert_close(entropy.double(), exact.entropy(), rtol=1e-5, atol=1e-6)


def test_autocast_narrows_neither():
    logits, ids = random_logits(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, entropy = token_logprobs_and_entropy(logits, ids)
    exact = torch.distributions.Categorical(logits=logits.double())
    assert_close(logprobs.double(), exact.log_prob(ids), rtol=1e-6, atol=1e-6)
    assert_close(entropy.double(), exact.entropy(), rtol=1e-5, atol=1e-6)


def test_half_precision_logits_are_upcast_before_the_temperature():
    logits, ids = random_logits(torch.bfloat16)
    expected = torch.distributions.Categorical(logits=logits.double() / 0.7).log_prob(ids)
    ours = token_logprobs(logits, ids, temperature=0.7)
    assert_close(ours.double(), expected, rtol=1e-6, atol=2e-6)


def test_double_logits_stay_double():
    logits, ids = random_logits()
    both = (token_logprobs(logits, ids), *token_logprobs_and_entropy(logits, ids))
    assert {values.dtype for values in both} == {torch.float64}


@pytest.mark.parametrize("size", [1, 3, 7, 100, None])
def test_chunks_change_neither_values_nor_gradients(size):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 5, dtype=torch.float64, generator=generator).requires_grad_()
    head = torch.randn(11, 5, dtype=torch.float64, generator=generator).requires_grad_()
    ids, weights = torch.arange(7), torch.randn(7, dtype=torch.float64, generator=generator)
    expected = (states @ head.T).log_softmax(-1)[torch.arange(7), ids]
    gradients = torch.autograd.grad((expected * weights).sum(), (states, head))
    rows = []

    def logprobs(some, their_ids):
        rows.append(len(some))
        return token_logprobs(some @ head.T, their_ids)

    found = in_chunks(logprobs, states, ids, size)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_close(
        torch.autograd.grad((found * weights).sum(), (states, head)), gradients, rtol=1e-10, atol=0
    )
    assert max(rows) == min(size or 7, 7)
    pieces = -(-7 // (size or 7))
    assert sum(rows) == (7 if pieces == 1 else 14)  # the backward pass computes them anew


@pytest.mark.parametrize("size", [1, 3, 7, 100, None])
def test_row_gradients_are_those_of_the_whole(size):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 5, dtype=torch.float64, generator=generator).requires_grad_()
    head = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    ids, weights = torch.arange(7), torch.randn(7, dtype=torch.float64, generator=generator)
    expected = (states @ head.T / 0.7).log_softmax(-1)[torch.arange(7), ids]
    gradient = torch.autograd.grad((expected * weights).sum(), states)
    rows = []

    def logprobs(some, their_ids):
        rows.append(len(some))
        return token_logprobs(some @ head.T, their_ids, temperature=0.7)

    found = with_row_gradients(logprobs, states, ids, size)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found_gradient = torch.autograd.grad((found * weights).sum(), states)
    assert_close(found_gradient, gradient, rtol=1e-10, atol=0)
    assert (max(rows), sum(rows)) == (min(size or 7, 7), 7)  # nothing is computed anew


def test_row_gradients_of_narrow_states_are_narrow():
    states = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    found = with_row_gradients(lambda s, i: token_logprobs(s, i), states, torch.zeros(3).long(), 2)
    assert found.dtype == torch.float32
    assert torch.autograd.grad((found * torch.arange(3.0)).sum(), states)[0].tolist() == [
        [0.0, 0.0],
        [0.5, -0.5],
        [1.0, -1.0],
    ]


@pytest.mark.parametrize("in_pieces", [in_chunks, with_row_gradients])
def test_no_token_is_a_chunk_too(in_pieces):
    nothing = in_pieces(lambda s, i: s[:, 0], torch.zeros(0, 5), torch.zeros(0).long(), 3)
    assert nothing.shape == (0,)


def entropy_of(logits, temperature=1.0):
    ids = torch.zeros(logits.shape[:-1], dtype=torch.long)
    return token_logprobs_and_entropy(logits, ids, temperature=temperature)[1]
