import pytest
import torch
from torch.testing import assert_close

from hydralign.data.collate import collate_prompts
from hydralign.data.examples import PromptExample
from hydralign.micro_batches import MicroBatches
from hydralign.rewards.scorers import RewardModelScorer
from hydralign.rl.minibatches import iterate_minibatches
from hydralign.rollout.collect import collect_rollout
from hydralign.rollout.sampling import Sampling
from hydralign.rollout.stopwatch import Stopwatch
from hydralign.stages.ppo import PPO

PROMPTS = [[9, 11], [30], [1, 22, 45, 13, 40], [17, 17, 8], [44, 12], [33, 21, 9], [20], [10, 9]]


def collect(toys, roles, *, micro_batch_size=4, temperature=0.8):
    examples = [PromptExample(ids, "", None) for ids in PROMPTS]
    return collect_rollout(
        roles["policy"],
        roles["reference"],
        RewardModelScorer(roles["reward_model"], MicroBatches(3)),
        collate_prompts(examples, examples, pad_id=0),
        toys.codec,
        Sampling(temperature, 7, MicroBatches(5)),
        torch.Generator().manual_seed(1),
        micro_batches=MicroBatches(micro_batch_size),
        clock=Stopwatch(),
    )


@pytest.fixture
def roles(toys):
    return toys.roles(PPO.roles)


@pytest.fixture
def rollout(toys, roles):
    rollout = collect(toys, roles)
    lengths = rollout.sequences.response_mask.sum(1).tolist()
    assert len(set(lengths)) > 2  # uneven, or the tests below would be easy
    return rollout


def test_the_first_ratio_is_one_for_every_minibatch(roles, rollout):
    shuffle = torch.Generator().manual_seed(0)
    for rows in iterate_minibatches(len(PROMPTS), 4, shuffle):
        logprobs = roles["policy"](rollout.sequences.select(rows), temperature=0.8)
        log_ratio = logprobs - rollout.old_logprobs[rows]
        assert log_ratio.abs().max() < 1e-5


def test_kl_is_exactly_zero_before_any_update(rollout):
    assert torch.equal(rollout.old_logprobs, rollout.ref_logprobs)
    assert rollout.old_logprobs[rollout.sequences.response_mask].max() < 0


def test_kl_is_not_zero_once_the_policy_has_moved(toys, roles, rollout):
    with torch.no_grad():
        for parameter in roles["policy"].trained_parameters():
            parameter += 0.01
    moved = collect(toys, roles)
    assert (moved.old_logprobs - moved.ref_logprobs).abs().max() > 1e-3


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_the_cut_into_micro_batches_changes_nothing(toys, roles, rollout, micro_batch_size):
    other = collect(toys, roles, micro_batch_size=micro_batch_size)
    assert torch.equal(other.sequences.sequence_ids, rollout.sequences.sequence_ids)
    mask = rollout.sequences.response_mask
    for name in ("old_logprobs", "ref_logprobs", "entropy"):
        got, expected = getattr(other, name)[mask], getattr(rollout, name)[mask]
        assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert_close(other.scores, rollout.scores, rtol=1e-5, atol=1e-5)


def test_logprobs_are_those_of_the_tempered_softmax(toys, roles):
    """Each row by itself in plain transformers, its logits over the temperature."""
    rollout = collect(toys, roles, temperature=0.5)
    model = roles["policy"].network.language_model
    roles["policy"].network.prepare()
    for row, prompt in enumerate(PROMPTS):
        mask = rollout.sequences.response_mask[row]
        said = rollout.sequences.response_ids[row][mask]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *said.tolist()]])).logits[0]
        logprobs = (logits[len(prompt) - 1 : -1] / 0.5).log_softmax(-1)
        expected = logprobs.gather(1, said.unsqueeze(1)).squeeze(1)
        assert_close(rollout.old_logprobs[row][mask], expected, rtol=1e-5, atol=1e-5)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        assert_close(rollout.entropy[row][mask], entropy, rtol=1e-5, atol=1e-5)


def test_nothing_in_a_rollout_has_a_gradient(rollout):
    tensors = [value for value in vars(rollout).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4
    assert not any(tensor.requires_grad for tensor in tensors)


def test_the_clock_tells_sampling_from_judging(toys, roles):
    clock = Stopwatch()
    clock.lap("generate")
    clock.lap("score")
    clock.lap("score")
    assert list(clock.seconds) == ["generate", "score"]
    assert all(value >= 0 for value in clock.seconds.values())
