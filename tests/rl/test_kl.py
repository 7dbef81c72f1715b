from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.kl import adaptive_kl_coef, best_of_n_kl, exact_kl, kl_k1, kl_k2, kl_k3

f64 = partial(torch.tensor, dtype=torch.float64)
P, Q = f64([0.5, 0.3, 0.2]), f64([0.4, 0.4, 0.2])

PER_TOKEN = [
    (kl_k1, [0.22314355, -0.28768207, 0.0], 0.0252671539),
    (kl_k2, [0.02489652, 0.04138049, 0.0], 0.0248624073),
    (kl_k3, [0.02314355, 0.04565126, 0.0], 0.0252671539),
]


@pytest.mark.parametrize(("estimator", "per_token", "mean"), PER_TOKEN)
def test_estimators_per_token_and_in_expectation(estimator, per_token, mean):
    kl = estimator(P.log(), Q.log())
    assert_close(kl, f64(per_token), rtol=1e-6, atol=1e-8)
    assert_close((P * kl).sum(), f64(mean), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_estimators_keep_the_shape_and_are_zero_for_equal_policies(estimator):
    logprobs = -torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(estimator(logprobs, logprobs), torch.zeros(3, 5).double())


def test_exact_kl_in_both_directions():
    # logits are log-probabilities plus a constant that must not matter
    policy, reference = P.log() + 3, Q.log() - 50
    assert_close(exact_kl(policy, reference), f64(0.0252671539), rtol=1e-8, atol=1e-11)
    assert_close(exact_kl(reference, policy), f64(0.0258154085), rtol=1e-8, atol=1e-11)


def test_exact_kl_agrees_with_torch_distributions_on_every_position():
    generator = torch.Generator().manual_seed(2)
    logits, ref_logits = 2 * torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    policy, reference = (torch.distributions.Categorical(logits=x) for x in (logits, ref_logits))
    expected = torch.distributions.kl_divergence(policy, reference)
    assert_close(exact_kl(logits, ref_logits), expected, rtol=1e-8, atol=1e-12)


def test_exact_kl_upcasts_half_precision_logits():
    generator = torch.Generator().manual_seed(2)
    logits, ref_logits = torch.randn(2, 3, 7, generator=generator).bfloat16()
    policy, reference = (
        torch.distributions.Categorical(logits=x.double()) for x in (logits, ref_logits)
    )
    kl = exact_kl(logits, ref_logits)
    assert kl.dtype == torch.float32
    expected = torch.distributions.kl_divergence(policy, reference)
    assert_close(kl.double(), expected, rtol=1e-5, atol=1e-6)


REVERSE = [0.0989382, -0.09388477, -0.00505343]  # gradient of KL(p || q) wrt the logits of p
FORWARD = [0.1, -0.1, 0.0]  # gradient of KL(q || p) = p - q
GRADIENTS = [(kl_k1, [0.0, 0.0, 0.0]), (kl_k2, REVERSE), (kl_k3, FORWARD)]


@pytest.mark.parametrize(("estimator", "expected"), GRADIENTS)
def test_expected_gradient_of_each_estimator_used_as_a_loss(estimator, expected):
    logits = P.log().requires_grad_()
    (P * estimator(logits.log_softmax(-1), Q.log())).sum().backward()  # P: samples of the policy
    assert_close(logits.grad, f64(expected), rtol=1e-6, atol=1e-8)


def test_gradient_of_the_exact_kl():
    logits = P.log().requires_grad_()
    exact_kl(logits, Q.log()).backward()
    assert_close(logits.grad, f64(REVERSE), rtol=1e-6, atol=1e-8)
    logits.grad = None
    exact_kl(Q.log(), logits).backward()
    assert_close(logits.grad, f64(FORWARD), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("kl_per_sequence", "expected"),
    [(12.0, 0.151536), (6.6, 0.150768), (6.0, 0.15), (3.0, 0.148464), (5.7, 0.149616)],
)
def test_adaptive_kl_coef(kl_per_sequence, expected):
    # e.g. 5.7: error -.05, .15 * (1 - .05 * 512 / 10000) = .149616
    coef = adaptive_kl_coef(0.15, kl_per_sequence, target=6.0, horizon=10_000, episodes=512)
    assert coef == pytest.approx(expected, rel=1e-9)


def test_adaptive_kl_coef_clips_the_error_at_a_fifth():
    for kl_per_sequence in (7.2, 100.0):
        coef = adaptive_kl_coef(1.0, kl_per_sequence, target=6.0, horizon=10_000, episodes=512)
        assert coef == pytest.approx(1.01024, rel=1e-9)
    coef = adaptive_kl_coef(1.0, -3.0, target=6.0, horizon=10_000, episodes=512)
    assert coef == pytest.approx(0.98976, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 0.0), (2, 0.193147), (4, 0.636294), (16, 1.835089), (64, 3.174508)]
)
def test_best_of_n_kl(n, expected):
    assert best_of_n_kl(n) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_best_of_n_kl_is_the_divergence_of_the_maximum_of_n_uniforms():
    # the best of n has density n u^(n-1) against the uniform's 1: integrate it log it
    u = (np.arange(200_000) + 0.5) / 200_000
    density = 7 * u**6
    assert best_of_n_kl(7) == pytest.approx(float((density * np.log(density)).mean()), rel=1e-6)
