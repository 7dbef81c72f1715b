"""The same numbers from TRL 1.12.0, whose own functions are called on the same tensors.

Where TRL has a quantity only inside a method of a trainer, the method is called with a stand-in
for `self` that has the attributes it reads.
"""

import os
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
pytest.importorskip("trl")

from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.ppo import ppo_trainer
from trl.trainer import utils
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.reward_trainer import RewardTrainer

from hydralign.rl import kl, logprobs, losses, masks, preference, sequences

close = partial(assert_close, rtol=1e-9, atol=1e-11)
ACCELERATOR = SimpleNamespace(
    device="cpu",
    num_processes=1,
    gather=lambda x: x,
    gather_for_metrics=lambda x: x,
    reduce=lambda x, reduction: x,
)
MASK = torch.arange(5) < torch.tensor([[2], [5], [3]])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trainer(**attributes):
    """What every TRL trainer method reads of `self`, with the given attributes."""
    common = {
        "model": SimpleNamespace(training=False),
        "accelerator": ACCELERATOR,
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
    }
    return SimpleNamespace(**common | attributes)


def test_token_logprobs_and_entropy():
    logits, ids = (
        randn(3, 5, 7),
        torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(0)),
    )
    close(logprobs.token_logprobs(logits, ids), utils.selective_log_softmax(logits, ids))
    ours = logprobs.token_logprobs(logits, ids, temperature=0.7)
    close(ours, utils.selective_log_softmax(logits / 0.7, ids))
    _, ours = logprobs.token_logprobs_and_entropy(logits, ids)
    close(ours, utils.entropy_from_logits(logits))
    _, ours = logprobs.token_logprobs_and_entropy(logits, ids, temperature=0.7)
    close(ours, utils.entropy_from_logits(logits / 0.7))


def test_masked_mean_and_var():
    x = randn(3, 5)
    close(masks.masked_mean(x, MASK), ppo_trainer.masked_mean(x, MASK))
    close(masks.masked_mean(x, MASK, dim=1), ppo_trainer.masked_mean(x, MASK, axis=1))
    close(masks.masked_var(x, MASK), ppo_trainer.masked_var(x, MASK, unbiased=False))


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_up_to_the_bessel_correction_of_trl(shift_mean):
    x = randn(3, 5)
    mean = 0.0 if shift_mean else x[MASK].mean()
    theirs = ppo_trainer.masked_whiten(x, MASK, shift_mean=shift_mean)[MASK]
    ours = masks.whiten(x, MASK, shift_mean=shift_mean)[MASK]
    assert_close(ours - mean, (theirs - mean) * (10 / 9) ** 0.5, rtol=1e-7, atol=1e-10)


def test_response_mask_keeps_what_truncation_at_the_stop_token_keeps():
    ids = torch.randint(1, 4, (17, 5), generator=torch.Generator().manual_seed(0))  # 0 is the pad
    mask, finished = masks.response_mask_from_stops(ids, torch.tensor([2]))
    truncated = ppo_trainer.truncate_response(2, 0, ids)
    assert torch.equal(mask, truncated != 0)
    assert torch.equal(finished, (truncated == 2).any(1))


def test_position_ids_of_real_tokens_are_those_of_the_ppo_forward():
    ids = torch.tensor([[0, 0, 4, 5, 6], [1, 2, 3, 4, 5], [0, 3, 4, 5, 0]])
    seen = ppo_trainer.forward(lambda **inputs: inputs, ids, pad_token_id=0)
    real = ids != 0
    assert torch.equal(masks.position_ids(real)[real], seen["position_ids"][real])


def test_pad_sequences_joins_a_left_padded_and_a_right_padded_block():
    prompts, responses = [[5], [6, 7, 8], [1, 9]], [[1, 4, 2], [2], [3, 4, 5, 6, 7]]
    left = utils.pad([torch.tensor(x) for x in prompts], padding_value=11, padding_side="left")
    right = utils.pad([torch.tensor(x) for x in responses], padding_value=11)
    ours = sequences.pad_sequences(prompts, responses, pad_id=11)
    assert torch.equal(ours.sequence_ids, torch.cat([left, right], 1))


def grpo_loss(new, old, reference, advantages, loss_type, beta):
    """TRL's clipped policy loss plus beta times k3, reduced over MASK."""
    inputs = {
        "prompt_ids": torch.zeros(3, 1, dtype=torch.long),
        "prompt_mask": torch.ones(3, 1, dtype=torch.long),
        "completion_ids": torch.zeros(3, 5, dtype=torch.long),
        "completion_mask": MASK.long(),
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "advantages": advantages,
    }
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False)
    this = trainer(args=args, beta=beta, loss_type=loss_type, top_entropy_quantile=1.0)
    this.epsilon_low, this.epsilon_high, this.max_completion_length = 0.2, 0.28, 11
    this.off_policy_mask_threshold, this.importance_sampling_level = None, "token"
    this.use_vllm = this._entropy_bonus_enabled = False
    this._get_per_token_logps_and_entropies = lambda *_, **__: (new, new * 0, None)
    return GRPOTrainer._compute_loss(this, None, inputs), this._metrics["eval"]


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(
    ("loss_type", "aggregate"),
    [
        ("bnpo", losses.token_mean),
        ("grpo", losses.sequence_mean),
        ("dr_grpo", partial(losses.constant_length_mean, length=11)),
        ("luspo", losses.sequence_sum_mean),
    ],
)
def test_clipped_policy_loss_k3_and_every_aggregate_with_gradients(loss_type, aggregate, beta):
    old, reference, advantages = randn(3, 5, seed=1), randn(3, 5, seed=2), randn(3, 5, seed=3)
    ours, theirs = ((old + 0.4 * randn(3, 5)).requires_grad_() for _ in range(2))
    terms = losses.policy_loss_terms(ours, old, advantages, clip_range=0.2, clip_range_high=0.28)
    loss = aggregate(terms + beta * kl.kl_k3(ours, reference), MASK)
    expected, metrics = grpo_loss(theirs, old, reference, advantages, loss_type, beta)
    close(loss, expected)
    loss.backward()
    expected.backward()
    close(ours.grad, theirs.grad)
    if loss_type != "luspo":
        close(ours.grad[~MASK], torch.zeros(5, dtype=torch.float64))
    clipped = losses.clipped_tokens(ours, old, advantages, clip_range=0.2, clip_range_high=0.28)
    share = masks.masked_mean(clipped.double(), MASK).item()
    assert share > 0
    assert share == pytest.approx(metrics["clip_ratio/region_mean"][0], rel=1e-6)


@pytest.mark.parametrize("margin", [None, [0.5, 0.0, 1.5]])
def test_reward_model_loss_with_margin_and_centering(margin):
    ours, theirs = (randn(6, 1).requires_grad_() for _ in range(2))
    model = lambda **_: SimpleNamespace(logits=theirs)  # noqa: E731
    inputs = {"attention_mask": torch.ones(6, 5)}
    if margin is not None:
        margin = inputs["margin"] = torch.tensor(margin, dtype=torch.float64)
    this = trainer(args=SimpleNamespace(center_rewards_coefficient=0.01))
    expected = RewardTrainer.compute_loss(this, model, inputs)
    chosen, rejected = ours[:, 0].chunk(2)
    loss = preference.pairwise_loss(chosen, rejected, margin=0.0 if margin is None else margin)
    total = (loss + 0.01 * preference.centering_penalty(chosen, rejected)).mean()
    close(total, expected)
    expected.backward()
    total.backward()
    close(ours.grad, theirs.grad)
    accuracy = preference.pairwise_accuracy(chosen, rejected, torch.ones(3)).mean()
    assert accuracy.item() == pytest.approx(this._metrics["eval"]["accuracy"][0], rel=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge", "robust"])
def test_dpo_loss_from_logits_to_gradient(kind):
    # two pairs of sequences of five tokens, v = 7; completions of 3 and 2 tokens against 1 and 4
    ids = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(0))
    completion = torch.arange(5) >= torch.tensor([[2], [3], [4], [1]])
    lengths = torch.tensor([3.0, 2.0, 1.0, 4.0], dtype=torch.float64)
    ref = randn(4, seed=5)
    ours, theirs = (randn(4, 5, 7, seed=4).requires_grad_() for _ in range(2))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones(4, 5),
        "completion_mask": completion.long(),
        "ref_chosen_logps": ref[:2],
        "ref_rejected_logps": ref[2:],
    }
    this = trainer(loss_types=[kind], loss_weights=[1.0], beta=0.3, label_smoothing=0.0)
    this.label_smoothing = 0.2 if kind == "robust" else 0.0
    this.ld_alpha, this.precompute_ref_logps, this.use_weighting = None, True, False
    this.f_divergence_type = "reverse_kl"
    model = lambda **_: SimpleNamespace(logits=theirs)  # noqa: E731
    expected = DPOTrainer._compute_loss(this, model, inputs, False)
    # TRL averages over the length for IPO alone: the caller's choice, not the loss's
    scale = 1 / lengths if kind == "ipo" else torch.ones(4)
    tokens = logprobs.token_logprobs(ours[:, :-1], ids[:, 1:])
    summed = masks.masked_sum(tokens, completion[:, 1:], dim=1) * scale
    margin = preference.dpo_margin(*summed.chunk(2), *(ref * scale).chunk(2))
    smoothing = this.label_smoothing
    loss = preference.dpo_loss(margin, beta=0.3, kind=kind, label_smoothing=smoothing).mean()
    close(loss, expected)
    expected.backward()
    loss.backward()
    close(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_smoothed_dpo_loss_is_trls_cpo_loss_of_the_margin(kind):
    margin = 5 * randn(11)
    smoothing = 0.1 if kind == "sigmoid" else 0.0
    this = trainer(alpha=0.0, beta=0.3, loss_type=kind, label_smoothing=smoothing)
    expected, *_ = CPOTrainer.cpo_loss(this, margin, torch.zeros(11))
    close(preference.dpo_loss(margin, beta=0.3, kind=kind, label_smoothing=smoothing), expected)
