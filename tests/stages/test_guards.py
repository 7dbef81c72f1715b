"""Numbers that cannot be right stop a run before they are applied."""

import dataclasses
import logging

import pytest
import torch

from hydralign.errors import BadNumbers
from hydralign.rl.sequences import pad_sequences
from hydralign.rollout.sampling import Responses
from hydralign.stages.guards import Guard, check_first_ratio, evidence_of, sound
from hydralign.stages.ppo import PPO, ValuedRollout
from hydralign.stages.reward import Reward
from hydralign.stages.sft import SFT

NAN = float("nan")
FINE = torch.nn.Linear(1, 1)
COARSE = torch.nn.Sequential(FINE, torch.nn.Linear(1, 1, dtype=torch.bfloat16))


def rollout(kl, scores=None):
    """One response of two tokens for each number, which is its KL; garbage behind a third."""
    n = len(kl)
    sequences = pad_sequences([[1]] * n, [[5, 2]] * n, 0)
    padded = torch.cat([sequences.sequence_ids, sequences.sequence_ids[:, -1:]], dim=1)
    mask = torch.tensor([[True, True, False]] * n)
    sequences = dataclasses.replace(
        sequences,
        sequence_ids=padded,
        attention_mask=torch.cat([torch.ones(n, 1, dtype=torch.bool), mask], dim=1),
        response_mask=mask,
    )
    old = torch.tensor([[-1.0, -2.0, NAN]] * n)
    reference = old - torch.tensor([[x / 4, 3 * x / 4, 0.0] for x in kl])
    texts = ("",) * n
    return ValuedRollout(
        Responses(sequences, torch.ones(n, dtype=torch.bool), texts, texts, (None,) * n),
        old,
        torch.zeros(n, 3),
        reference,
        torch.zeros(n) if scores is None else torch.tensor(scores),
        torch.tensor([[0.0, 0.0, NAN]] * n),
    )


def test_sound_numbers_pass_whatever_lies_behind_the_mask():
    assert sound(rollout([0.0] * 4), Guard(), FINE, untrained=True)
    assert sound(rollout([3.0, 1.0, -0.5]), Guard(), FINE, untrained=False)


@pytest.mark.parametrize("name", ["scores", "old_logprobs", "ref_logprobs", "old_values"])
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_rollout_that_is_not_finite_is_told_by_name(name, bad):
    found = rollout([0.0, 0.0])
    getattr(found, name)[1, ...] = bad
    with pytest.raises(BadNumbers, match=rf"Not a finite number: {name}.*bad_steps_to_skip=N"):
        sound(found, Guard(), FINE, untrained=False)


def test_so_many_are_left_out_first_as_were_allowed(caplog):
    guard, bad = Guard(skips=2), rollout([0.0, 0.0], scores=[0.0, NAN])
    with caplog.at_level(logging.WARNING):
        assert [sound(bad, guard, FINE, untrained=False) for _ in range(2)] == [False, False]
    assert "This step is left out (2 of 2)." in caplog.messages[1]
    with pytest.raises(BadNumbers):
        sound(bad, guard, FINE, untrained=False)


def test_before_training_there_is_no_kl():
    with pytest.raises(BadNumbers, match=r"KL of a response is 0.25 nats and must be 0 but"):
        sound(rollout([0.0, 0.25, 0.0]), Guard(), FINE, untrained=True)


def test_in_bfloat16_passes_that_were_cut_otherwise_may_differ_a_little():
    # Two tokens: the square root of 2 times 32 units of 2^-7 is 0.354.
    assert sound(rollout([0.0, -0.35, 0.35]), Guard(), COARSE, untrained=True)
    with pytest.raises(BadNumbers, match="must be 0"):
        sound(rollout([0.0, 0.36]), Guard(), COARSE, untrained=True)


def test_a_negative_kl_names_the_likely_causes():
    # Mean -6; deviations +-0.5, so the standard error of four is 0.25. In all -24.
    with pytest.raises(BadNumbers, match=r"-6 nats.*error of 0\.25.*temperature"):
        sound(rollout([-5.5, -6.5, -5.5, -6.5]), Guard(), FINE, untrained=False)
    # Mean -6 again, deviations +-5, standard error 2.5: may be chance.
    assert sound(rollout([-1.0, -11.0, -1.0, -11.0]), Guard(), FINE, untrained=False)
    # Far below in standard errors, but a mean of exp(-KL) of 1 allows it: exp(-19).
    assert sound(rollout([-4.5, -5.0, -4.5, -5.0]), Guard(), FINE, untrained=False)


def test_chance_stops_no_run_with_few_responses():
    torch.manual_seed(0)
    for n in (1, 2, 4, 8):
        for _ in range(500):
            # Log ratios of N(s^2 / 2, s^2), as two normal policies have them.
            kl = (0.5 * 0.3**2 + 0.3 * torch.randn(n)).tolist()
            assert sound(rollout(kl), Guard(), FINE, untrained=False)


def test_the_policy_that_learns_is_the_one_that_sampled():
    def check(rms, network):
        check_first_ratio(network, dict, {"policy/log_ratio_square": rms**2})

    check(0.9e-3, FINE)
    with pytest.raises(BadNumbers, match=r"logarithm is 0\.0011 from 0"):
        check(1.1e-3, FINE)
    check(0.24, COARSE)  # 32 units of 2^-7 are 0.25
    with torch.autocast("cpu", torch.bfloat16):
        check(0.24, FINE)
    with pytest.raises(BadNumbers):
        check(0.26, COARSE)


def test_evidence_holds_tokens_and_numbers():
    found = evidence_of(rollout([0.0, 0.5], scores=[1.0, 2.0]))
    assert found["token_ids"] == [[1, 5, 2], [1, 5, 2]]
    assert found["scores"] == [1.0, 2.0]
    assert found["ref_logprobs"][1] == [-1.125, -2.375]  # of the tokens that count


def weights(stage):
    name = {SFT: "policy", Reward: "reward_model", PPO: "policy"}[type(stage)]
    return [p.detach().clone() for p in getattr(stage, name).trained_parameters()]


def poison(stage, monkeypatch, times):
    """Let the first backward passes of a stage leave NaN."""
    backward, left = stage.manual_backward, [times]

    def poisoned(loss):
        left[0] -= 1
        backward(loss * NAN if left[0] >= 0 else loss)

    monkeypatch.setattr(stage, "manual_backward", poisoned)


@pytest.mark.parametrize("kind", [SFT, Reward, PPO])
def test_a_step_that_is_not_finite_is_not_applied(make_stage, make_data, fit, monkeypatch, kind):
    stage = make_stage(kind)
    before = weights(stage)
    poison(stage, monkeypatch, times=1)
    with pytest.raises(BadNumbers, match="Not a finite number: .*grad_norm") as told:
        fit(stage, make_data(stage))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(stage), strict=True))
    assert told.value.evidence["examples" if kind is not PPO else "token_ids"]


def test_a_step_that_is_left_out_leaves_no_trace(make_stage, make_data, fit, monkeypatch):
    stage = make_stage(SFT, steps=2)
    stage.context.guard.skips = 1
    poison(stage, monkeypatch, times=1)
    memory, _ = fit(stage, make_data(stage))
    assert stage.context.guard.skipped == 1
    assert len(memory.series("policy/loss")) == 1
    assert len(memory.series("policy/learning_rate")) == 2
    assert all(torch.isfinite(p).all() for p in weights(stage))


def test_a_policy_that_samples_otherwise_than_it_learns_is_found_out(
    make_stage, make_data, fit, monkeypatch
):
    stage = make_stage(PPO)
    forward = stage.policy.forward

    def colder(sequences, *, temperature=1.0):
        hot = torch.is_grad_enabled()
        return forward(sequences, temperature=temperature * 2 if hot else temperature)

    monkeypatch.setattr(stage.policy, "forward", colder)
    with pytest.raises(BadNumbers, match="the ratio of new to old probability must be 1"):
        fit(stage, make_data(stage))


def test_a_reference_that_is_another_network_is_found_out(make_stage, make_data, fit):
    stage = make_stage(PPO)
    with torch.no_grad():
        for parameter in stage.policy.trained_parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    with pytest.raises(BadNumbers, match="must be 0 but for rounding: policy and reference"):
        fit(stage, make_data(stage))
