"""A bandit whose optimum is known: pi* is proportional to reference * exp(score / kl_coef).

Two tokens, 0 (stop) and 1, at most two of them: the responses are "0", "10" and "11", so their
lengths differ and "11" ends by the length limit. The policy is a table of logits.
"""

import itertools
import math

import pytest
import torch

from hydralign.rl.advantages import gae
from hydralign.rl.groups import group_advantages, leave_one_out_advantages
from hydralign.rl.kl import exact_kl, kl_k1, kl_k2
from hydralign.rl.logprobs import token_logprobs
from hydralign.rl.losses import policy_loss_terms, token_mean, value_loss_terms
from hydralign.rl.masks import masked_sum, response_mask_from_stops
from hydralign.rl.minibatches import iterate_minibatches
from hydralign.rl.preference import dpo_loss, dpo_margin
from hydralign.rl.rewards import per_token_rewards

STOPS = torch.tensor([0])
SCORES = torch.tensor([0.0, 1.0, -0.5])  # of "0", "10", "11"
REFERENCE = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # state (empty, after 1) x token
# reference probabilities 3/4, 1/8, 1/8; the optimum for a kl_coef of one half, by hand:
WEIGHTS = [0.75, 0.125 * math.exp(2.0), 0.125 * math.exp(-1.0)]
OPTIMUM = [w / sum(WEIGHTS) for w in WEIGHTS]


def response_probs(logits):
    first, second = torch.softmax(logits.detach().double(), -1).tolist()
    return [first[0], first[1] * second[0], first[1] * second[1]]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def outputs_for(table, response_ids):
    """One row of the table per position: the state before the token, which is 0 then the first id.

    A response that stopped reads row 0 at its second position, where the mask hides it.
    """
    first = torch.zeros_like(response_ids[:, 0])
    return table[torch.stack([first, response_ids[:, 0]], 1)]


def sample(logits, rows, generator):
    first, second = (
        torch.multinomial(p, rows, replacement=True, generator=generator)
        for p in torch.softmax(logits.detach(), -1)
    )
    # after a stop token comes garbage, 1, that the mask must hide
    return torch.stack([first, torch.where(first == 0, 1, second)], 1)


def responses_of(ids):
    """Numbers of the responses "0", "10", "11"."""
    return torch.where(ids[:, 0] == 0, 0, 1 + ids[:, 1])


def ppo(scores, kl_coef, start, rollouts, lr=0.05):
    generator = torch.Generator().manual_seed(0)
    logits, values = start.clone().requires_grad_(), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logits, values], lr=lr, eps=1e-5)
    for rollout in range(rollouts):
        optimizer.param_groups[0]["lr"] = lr * (1 - rollout / rollouts)
        ids = sample(logits, 128, generator)
        mask, _ = response_mask_from_stops(ids, STOPS)
        with torch.no_grad():
            old = token_logprobs(outputs_for(logits, ids), ids)
            old_values = outputs_for(values, ids)
            reference = token_logprobs(outputs_for(REFERENCE, ids), ids)
        score = scores[responses_of(ids)]
        rewards = per_token_rewards(score, kl_k1(old, reference), mask, kl_coef)
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, gae_lambda=0.95)
        epochs = [iterate_minibatches(128, 64, generator) for _ in range(2)]
        for rows in itertools.chain(*epochs):
            new = token_logprobs(outputs_for(logits, ids[rows]), ids[rows])
            terms = policy_loss_terms(new, old[rows], advantages[rows], clip_range=0.2)
            value = value_loss_terms(
                outputs_for(values, ids[rows]),
                old_values[rows],
                returns[rows],
                value_clip_range=None,
            )
            optimizer.zero_grad()
            token_mean(terms + value, mask[rows]).backward()
            optimizer.step()
    return logits, values


def test_the_optimum_is_far_from_the_reference():
    assert divergence(response_probs(REFERENCE), OPTIMUM) > 0.2


def test_ppo_converges_to_the_optimum_and_its_value():
    logits, values = ppo(SCORES, 0.5, start=REFERENCE, rollouts=150)
    assert divergence(response_probs(logits), OPTIMUM) < 1e-3
    # at the optimum every response earns kl_coef * log(normaliser): the value of the first state
    assert values[0].item() == pytest.approx(0.5 * math.log(sum(WEIGHTS)), abs=0.03)


def test_ppo_on_the_kl_alone_returns_to_the_reference():
    start = torch.tensor([[-1.0, 1.0], [2.0, 0.0]])
    before = divergence(response_probs(start), response_probs(REFERENCE))
    logits, _ = ppo(torch.zeros(3), 0.5, start=start, rollouts=150)
    assert before > 0.5
    assert divergence(response_probs(logits), response_probs(REFERENCE)) < 1e-3


def test_a_step_on_the_k2_loss_lowers_the_exact_kl():
    logits = torch.tensor([[-1.0, 1.0], [2.0, 0.0]], requires_grad=True)
    ids = sample(logits, 512, torch.Generator().manual_seed(0))
    mask, _ = response_mask_from_stops(ids, STOPS)
    logprobs, reference = (token_logprobs(outputs_for(x, ids), ids) for x in (logits, REFERENCE))
    token_mean(kl_k2(logprobs, reference), mask).backward()
    moved = logits.detach() - 0.1 * logits.grad
    assert (exact_kl(moved, REFERENCE) < exact_kl(logits.detach(), REFERENCE)).all()


def test_dpo_on_exact_preferences_converges_to_the_optimum():
    logits = REFERENCE.clone().double().requires_grad_()
    responses = torch.tensor([[0, 1], [1, 0], [1, 1]])
    mask, _ = response_mask_from_stops(responses, STOPS)
    orders = torch.tensor(list(itertools.permutations(range(3), 2)))
    chosen, rejected = orders.T
    # Bradley-Terry: each order of each pair, as often as the scores say
    share = torch.sigmoid((SCORES[chosen] - SCORES[rejected]).double())
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-12)

    def sums(table):
        logprobs = token_logprobs(outputs_for(table, responses), responses)
        return masked_sum(logprobs, mask, dim=1)

    reference = sums(REFERENCE.double())

    def loss():
        optimizer.zero_grad()
        new = sums(logits)
        margin = dpo_margin(new[chosen], new[rejected], reference[chosen], reference[rejected])
        total = (share * dpo_loss(margin, beta=0.5)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    assert divergence(response_probs(logits), OPTIMUM) < 1e-6


GROUP = 8


def rloo_loss(logprobs, reference, mask, scores, kl_coef):
    """Of stage=rloo right after sampling: a response is one action, its KL a part of its score."""
    new, of_reference = (masked_sum(x, mask, dim=1) for x in (logprobs, reference))
    old = new.detach()
    advantages = leave_one_out_advantages(scores - kl_coef * (old - of_reference), GROUP)
    return policy_loss_terms(new, old, advantages, clip_range=0.2).mean()


def grpo_loss(logprobs, reference, mask, scores, kl_coef):
    """Of stage=grpo right after sampling: without the division, k2 of each token in the loss."""
    advantages = group_advantages(scores, GROUP, scale=False).unsqueeze(1)
    terms = policy_loss_terms(logprobs, logprobs.detach(), advantages, clip_range=0.2)
    return token_mean(terms + kl_coef * kl_k2(logprobs, reference), mask)


def learned(loss, kl_coef, reference, draw, outputs, rollouts=300, lr=0.05):
    """Logits after one step on each rollout, from the reference on.

    Which responses stand in one group does not matter here, since all answer one prompt.
    """
    generator = torch.Generator().manual_seed(0)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=lr, eps=1e-5)
    for rollout in range(rollouts):
        optimizer.param_groups[0]["lr"] = lr * (1 - rollout / rollouts)
        ids, mask, responses = draw(logits, generator)
        new, of_reference = (token_logprobs(outputs(x, ids), ids) for x in (logits, reference))
        optimizer.zero_grad()
        loss(new, of_reference, mask, SCORES[responses], kl_coef).backward()
        optimizer.step()
    return logits


def draw_two_tokens(logits, generator):
    ids = sample(logits, 32 * GROUP, generator)
    return ids, response_mask_from_stops(ids, STOPS)[0], responses_of(ids)


def draw_one_token(logits, generator):
    probs = torch.softmax(logits.detach(), -1)
    ids = torch.multinomial(probs, 32 * GROUP, replacement=True, generator=generator)
    return ids.unsqueeze(1), torch.ones(32 * GROUP, 1, dtype=torch.bool), ids


TWO_TOKENS = (REFERENCE, draw_two_tokens, outputs_for)
# the same three responses as a single token each, so that the optimum is the same
ONE_TOKEN = (
    torch.tensor([0.75, 0.125, 0.125]).log(),
    draw_one_token,
    lambda logits, ids: logits.expand(*ids.shape, 3),
)
# A mean that includes the response itself shrinks advantages by (k - 1) / k (test_groups), as if
# kl_coef were larger by the inverse. With the group's standard deviation there would be another
# optimum altogether: groups whose scores lie close together would count more, and how close they
# lie depends on the policy, so the strength of the KL would change as it learns.
HALF = 0.5 * (GROUP - 1) / GROUP


def test_rloo_converges_to_the_optimum():
    logits = learned(rloo_loss, 0.5, *TWO_TOKENS)
    assert divergence(response_probs(logits), OPTIMUM) < 1e-3


def test_grpo_converges_to_the_optimum_of_responses_of_one_token():
    probs = torch.softmax(learned(grpo_loss, HALF, *ONE_TOKEN).detach(), -1).tolist()
    assert divergence(probs, OPTIMUM) < 1e-3


def test_grpo_charges_no_token_the_kl_of_those_after_it():
    """The gradient of k2 is that of the KL of each token, given what came before it.

    The first token is charged its own KL alone, where PPO and RLOO charge it what follows, too.
    So it is chosen by the mean score of what follows, not by that less its KL.
    """
    second = [0.5 * math.exp(2.0), 0.5 * math.exp(-1.0)]  # after 1: "10", "11"
    after = [w / sum(second) for w in second]
    first = [0.75, 0.25 * math.exp((after[0] * 1.0 + after[1] * -0.5) / 0.5)]
    goes_on = first[1] / sum(first)
    expected = [1 - goes_on, goes_on * after[0], goes_on * after[1]]
    assert divergence(expected, OPTIMUM) > 0.025
    probs = response_probs(learned(grpo_loss, HALF, *TWO_TOKENS))
    assert divergence(probs, expected) < 2e-3
    assert divergence(probs, OPTIMUM) > 0.02
