"""The gradient of an optimizer step: what plain transformers gives row by row, however it is cut.

References run each row by itself, unpadded, with losses written out by hand.
"""

import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hydralign.data.loaders import Step
from hydralign.stages.grpo import GRPO
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward
from hydralign.stages.rloo import RLOO
from hydralign.stages.sft import SFT

CUTS = [1, 2, 8]
close = {"rtol": 1e-4, "atol": 1e-6}


pytestmark = pytest.mark.usefixtures("small_groups")


def row_logprobs(role, prompt, response, temperature=1.0):
    """Log-probs of one response, straight from the language model."""
    role.network.prepare()
    logits = role.network.language_model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    logprobs = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)


def row_numbers(role, ids):
    """What a scalar role says at each token of one row, normalised as the artifact says."""
    role.network.prepare()
    states = role.network.language_model.base_model(input_ids=torch.tensor([ids]))
    return (states.last_hidden_state[0] @ role.head.weight[0] - role.head.mean) / role.head.std


def gradients(loss, role):
    # A full network that gives numbers has an LM head that nothing uses.
    return list(torch.autograd.grad(loss, role.trained_parameters(), allow_unused=True))


def first_step(make_stage, make_data, fit, kind, size):
    stage = make_stage(kind, micro_batch_size=size)
    return fit(stage, make_data(stage))[1].of(0)[0]


@pytest.mark.parametrize("size", CUTS)
def test_sft_averages_over_the_tokens_of_the_whole_step(make_stage, make_data, fit, size):
    got = first_step(make_stage, make_data, fit, SFT, size)
    policy = make_stage(SFT).policy
    rows = make_data(make_stage(SFT)).train_examples
    logprobs = [row_logprobs(policy, row.prompt_ids, row.response_ids) for row in rows]
    assert len({len(row) for row in logprobs}) > 2
    assert_close(got, gradients(-torch.cat(logprobs).mean(), policy), **close)


@pytest.mark.parametrize("size", CUTS)
def test_reward_averages_over_prompts_of_their_means_over_pairs(make_stage, make_data, fit, size):
    got = first_step(make_stage, make_data, fit, Reward, size)
    stage = make_stage(Reward)
    losses = []
    for row in make_data(stage).train_examples:
        scores = [
            row_numbers(stage.reward_model, [*row.prompt_ids, *ids])[-1] for ids in row.responses
        ]
        of_pairs = []
        for pair in row.pairs:
            first, second = scores[pair.first], scores[pair.second]
            won, lost = -F.logsigmoid(first - second), -F.logsigmoid(second - first)
            loss = won if pair.target == 1 else (won + lost) / 2
            of_pairs.append(loss + 0.01 * (first + second) ** 2)
        losses.append(torch.stack(of_pairs).mean())
    assert_close(got, gradients(torch.stack(losses).mean(), stage.reward_model), **close)


def unpadded(rollout):
    """Prompt and response of each row."""
    sequences = rollout.sequences
    p = sequences.prompt_length
    for ids, keep in zip(sequences.sequence_ids, sequences.attention_mask, strict=True):
        yield ids[:p][keep[:p]].tolist(), ids[p:][keep[p:]].tolist()


def judged(stage, rollout):
    """Log-probs of each row with a gradient, those of the reference, and the normalised score."""
    for prompt, response in unpadded(rollout):
        with torch.no_grad():
            reference = row_logprobs(stage.reference, prompt, response, temperature=0.9)
            score = row_numbers(stage.reward_model, [*prompt, *response])[-1].item()
        yield row_logprobs(stage.policy, prompt, response, temperature=0.9), reference, score


def advantages_by_hand(values, rewards):
    """GAE with discount 1 and lambda .95."""
    advantages, following, next_value = [], 0.0, 0.0
    for value, reward in zip(reversed(values), reversed(rewards), strict=True):
        following = reward + next_value - value + 0.95 * following
        next_value = value
        advantages.insert(0, following)
    return torch.tensor(advantages)


def moved(stage):
    """The stage with its policy moved away from the reference, so that there is a KL."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stage.policy.trained_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    stage.rollout_step = 1  # at the first one a KL would be an error
    return stage


@pytest.mark.parametrize("size", CUTS)
def test_ppo_averages_over_the_tokens_of_the_whole_step(make_stage, make_data, fit, rollouts, size):
    one_step = {"minibatch_size": 8, "ppo_epochs": 1, "micro_batch_size": size}
    stage = moved(make_stage(PPO, **one_step))
    _, steps = fit(stage, make_data(stage))
    fresh, finished = moved(make_stage(PPO, **one_step)), rollouts[0].responses.finished.tolist()
    logprobs, values, advantages, kl = [], [], [], []
    for row, (prompt, response) in enumerate(unpadded(rollouts[0])):
        logprobs.append(row_logprobs(fresh.policy, prompt, response, temperature=0.9))
        with torch.no_grad():
            reference = row_logprobs(fresh.reference, prompt, response, temperature=0.9)
            old = row_numbers(fresh.value_model, [*prompt, *response])[len(prompt) - 1 : -1]
            score = row_numbers(fresh.reward_model, [*prompt, *response])[-1]
        kl.append(logprobs[-1].detach() - reference)
        rewards = -0.1 * kl[-1]
        rewards[-1] += score - (0.0 if finished[row] else 1.0)
        advantages.append(advantages_by_hand(old.tolist(), rewards.tolist()))
        values.append(old)
    a = torch.cat(advantages)
    whitened = (a - a.mean()) / a.std(correction=0)
    # The ratio is 1, so the gradient of -A * ratio is that of -A * logprob.
    policy_loss = -(whitened * torch.cat(logprobs)).mean()
    assert_close(steps.of(0)[0], gradients(policy_loss, fresh.policy), **close)
    now = [
        row_numbers(fresh.value_model, [*prompt, *response])[len(prompt) - 1 : -1]
        for prompt, response in unpadded(rollouts[0])
    ]
    value_loss = 0.5 * (torch.cat(now) - (a + torch.cat(values))).square().mean()
    assert_close(steps.of(1)[0], gradients(value_loss, fresh.value_model), **close)
    assert set(finished) == {True, False}
    assert torch.cat(kl).abs().mean() > 0.1


def test_each_step_of_ppo_starts_from_no_gradient(make_stage, make_data, fit):
    still = {"policy_learning_rate": 0.0, "value_learning_rate": 0.0}
    stage = make_stage(PPO, minibatch_size=8, ppo_epochs=3, **still)
    _, steps = fit(stage, make_data(stage))
    for first, *later in (steps.of(0), steps.of(1)):
        assert len(later) == 2
        for step in later:  # the same weights, the same rows
            assert_close(step, first, **close)


@pytest.mark.parametrize("kind", [SFT, Reward, PPO, GRPO, RLOO])
def test_ids_in_padding_change_no_gradient(make_stage, make_data, fit, with_garbage, kind):
    stage, optimizers = make_stage(kind), (0, 1) if kind is PPO else (0,)
    data = make_data(stage)
    tidy_steps = fit(stage, data)[1]
    stage = make_stage(kind)
    data = make_data(stage)
    if stage.records == (
        "prompt",
    ):  # the padding of prompts, and what the codec writes behind responses
        codec = dataclasses.replace(stage.context.codec, pad_id=33)
        stage.context = dataclasses.replace(stage.context, codec=codec)

    def collate(examples, whole):
        return untidy(data.collate(examples, whole), with_garbage)

    loader = data.train_loader
    loader.make_step = collate if stage.records == ("prompt",) else partial(Step, collate=collate)
    untidy_steps = fit(stage, data)[1]
    for which in optimizers:
        assert_close(untidy_steps.of(which)[0], tidy_steps.of(which)[0], **close)


def untidy(batch, with_garbage):
    if hasattr(batch, "sequences"):
        return dataclasses.replace(batch, sequences=with_garbage(batch.sequences))
    garbage = torch.randint(0, 47, batch.prompt_ids.shape)
    ids = batch.prompt_ids.where(batch.attention_mask, garbage)
    assert not torch.equal(ids, batch.prompt_ids)
    return dataclasses.replace(batch, prompt_ids=ids)
