"""GRPO and RLOO from sampled responses to gradients: TRL 1.12.0's own methods on the same network.

TRL's methods are called with a stand-in for `self` that has the attributes they read, and ours,
too: what is compared is `judge` and the loss of a stage, and what TRL does in their place.

Both run a random Llama on six responses of uneven length in two groups of three. Their padding
differs, in ids and in width. Where TRL's definition differs from ours, the test says how.
"""

import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
pytest.importorskip("trl")

from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from hydralign.rl.logprobs import token_logprobs
from hydralign.rl.sequences import pad_sequences
from hydralign.stages.averages import Averages
from hydralign.stages.grpo import GRPO
from hydralign.stages.rloo import RLOO

close = {"rtol": 1e-5, "atol": 1e-6}  # Llama's norms and positions are fp32 whatever the weights
EOS, LIMIT, TEMPERATURE, G = 2, 6, 0.7, 3
PROMPTS = [[1, 9]] * 3 + [[7, 0, 30, 5]] * 3
RESPONSES = [[6, 8, 13, 40, 11, 9], [8, 2], [17, 12, 0, 2], [44, 5, 3, 7, 12, 2], [2], [5, 6, 9, 2]]
FINISHED = torch.tensor([ids[-1] == EOS for ids in RESPONSES])
SCORES = torch.tensor([1.5, -0.25, 0.5, 2.0, -1.0, -1.5])
"""The first has no stop token and pays 1 for it."""


def llama(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 47}
    heads = {"num_attention_heads": 2, "initializer_range": 0.3}
    # fp64: what is compared is the formula, not how differently padded batches round
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).double().eval()


def networks():
    """Policy now, policy that sampled, reference: near enough that only some ratios are clipped."""
    new, old, reference = (llama(0) for _ in range(3))
    for seed, (network, size) in enumerate([(old, 0.01), (reference, 0.05)]):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += size * noise
    return new, old, reference


def logprobs_of(network, batch, temperature=TEMPERATURE):
    """Log-probs of each response token, with our padding and positions."""
    inputs = {"input_ids": batch.sequence_ids, "attention_mask": batch.attention_mask.long()}
    logits = network(**inputs, position_ids=batch.position_ids).logits
    p = batch.prompt_length
    return token_logprobs(logits[:, p - 1 : -1], batch.response_ids, temperature=temperature)


def ours(stage, network, old, reference, settings, rows=None):
    """Loss, gradients and figures of a stage's step on the rows given, or on all."""
    batch = pad_sequences(PROMPTS, RESPONSES, pad_id=33)
    with torch.no_grad():
        sampled, of_reference = (logprobs_of(x, batch) for x in (old, reference))
    rollout = SimpleNamespace(
        sequences=batch,
        responses=SimpleNamespace(finished=FINISHED),
        old_logprobs=sampled.masked_fill(~batch.response_mask, 50.0),  # garbage
        ref_logprobs=of_reference.masked_fill(~batch.response_mask, -50.0),
        scores=SCORES.double(),
    )
    options = {"group_size": G, "temperature": TEMPERATURE, "missing_stop_penalty": 1.0}
    options |= {"clip_range": 0.2, "overlong_tokens": None, "mask_unfinished": False}
    taken, seen = [], Averages()

    def step(name, optimizer, minibatch, backward, first):
        backward(minibatch, seen)
        return seen

    def manual_backward(loss):
        taken.append(loss.detach())
        loss.backward()

    this = SimpleNamespace(
        options=SimpleNamespace(**options | settings),
        context=SimpleNamespace(max_response_tokens=LIMIT),
        kl_coef=settings["kl_coef"],
        policy=lambda sequences, temperature: logprobs_of(network, sequences, temperature),
        optimizers=lambda: None,
        step=step,
        manual_backward=manual_backward,
    )
    this._backward = lambda *args: stage._backward(this, *args)
    experience, _ = stage.judge(this, rollout)
    network.zero_grad()
    stage.update(this, experience if rows is None else experience.select(rows), Averages())
    return experience, taken[0], [p.grad.clone() for p in network.parameters()], seen.means()


def trainer(trainer_class, network, old, reference, **attributes):
    """What TRL's methods read of `self`."""
    tokenizer = SimpleNamespace(eos_token_id=EOS, pad_token_id=11)
    rewards = SCORES.double() - 1.0 * ~FINISHED
    this = SimpleNamespace(
        model=old,
        ref_model=reference,
        accelerator=SimpleNamespace(
            device="cpu",
            num_processes=1,
            process_index=0,
            is_main_process=False,
            gather=lambda x: x,
            gather_for_metrics=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        args=SimpleNamespace(
            per_device_train_batch_size=6,
            per_device_eval_batch_size=6,
            gradient_checkpointing_kwargs=None,
            steps_per_generation=1,
            gradient_accumulation_steps=3,
            delta=None,
            use_bias_correction_kl=False,
        ),
        _tokenizer=tokenizer,
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids)),
        model_kwarg_keys=set(),
        temperature=TEMPERATURE,
        num_generations_eval=G,
        num_iterations=2,
        reward_weights=torch.ones(1),
        reward_func_names=["reward"],
        reward_clip_range=None,
        multi_objective_aggregation="sum_then_normalize",
        epsilon_low=0.2,
        epsilon_high=0.2,
        max_completion_length=LIMIT,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        pad_to_multiple_of=None,
        environment_factories=None,
        environments=None,
        tools=None,
        mask_truncated_completions=False,
        normalize_advantages=False,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _logs=defaultdict(list, rewards=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
        _calculate_rewards=lambda *_: rewards.unsqueeze(1),
        current_gradient_accumulation_steps=1,
    )
    vars(this).update(attributes)
    method = trainer_class._get_per_token_logps_and_entropies
    this._get_per_token_logps_and_entropies = lambda *args, **kw: method(this, *args, **kw)
    return this


def theirs(trainer_class, network, old, reference, **attributes):
    """Inputs of the loss, the loss, gradients and metrics of TRL."""
    this = trainer(trainer_class, network, old, reference, **attributes)
    texts = [""] * len(PROMPTS)
    if trainer_class is GRPOTrainer:
        this._generate = lambda _: (PROMPTS, RESPONSES, None, texts, None, {}, None, None)
    else:
        this._generate = lambda _: (PROMPTS, RESPONSES, texts)
    asked = [{"prompt": ""} for _ in PROMPTS]
    inputs = trainer_class._generate_and_score_completions(this, asked)
    network.zero_grad()
    this.model = network
    loss = trainer_class._compute_loss(this, network, inputs)
    loss.backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    return inputs, loss.detach(), gradients, this._metrics["eval"]


GRPO_SETTINGS = {"kl_coef": 0.3, "kl_estimator": "k3", "scale_advantages": True}
GRPO_SETTINGS |= {"denominator": "tokens", "clip_range_high": None}


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("scale", "scale_rewards"), [(True, "group"), (False, "none")])
@pytest.mark.parametrize("high", [None, 0.05])
@pytest.mark.parametrize(
    ("denominator", "loss_type"), [("tokens", "dapo"), ("constant", "dr_grpo")]
)
def test_grpo(beta, scale, scale_rewards, high, denominator, loss_type):
    """TRL has k3 alone, and no clamp of log-ratios before exp()."""
    made = networks()
    changes = {"kl_coef": beta, "scale_advantages": scale, "denominator": denominator}
    settings = GRPO_SETTINGS | changes | {"clip_range_high": high}
    experience, loss, gradients, figures = ours(GRPO, *made, settings)
    inputs, expected, their_gradients, metrics = theirs(
        GRPOTrainer,
        *made,
        beta=beta,
        scale_rewards=scale_rewards,
        loss_type=loss_type,
        epsilon_high=0.2 if high is None else high,
    )
    assert_close(experience.advantages, inputs["advantages"], **close)
    assert_close(loss, expected, **close)
    assert_close(gradients, their_gradients, **close)
    clipped = metrics["clip_ratio/region_mean"][0]
    assert 0 < clipped < 1
    assert figures["policy/clip_fraction"] == pytest.approx(clipped, rel=1e-5)


@pytest.mark.parametrize(
    ("denominator", "loss_type"), [("tokens", "dapo"), ("constant", "dr_grpo")]
)
def test_grpo_that_learns_nothing_from_responses_without_a_stop_token(denominator, loss_type):
    """TRL takes what it masks out of the attention mask, too, which changes no other response."""
    made = networks()
    settings = GRPO_SETTINGS | {"denominator": denominator, "mask_unfinished": True}
    experience, loss, gradients, _ = ours(GRPO, *made, settings)
    inputs, expected, their_gradients, _ = theirs(
        GRPOTrainer,
        *made,
        beta=0.3,
        scale_rewards="group",
        loss_type=loss_type,
        mask_truncated_completions=True,
    )
    assert experience.loss_mask.sum(-1).tolist() == [0, 2, 4, 6, 1, 4]
    assert inputs["completion_mask"].sum(-1).tolist() == [0, 2, 4, 6, 1, 4]
    assert_close(experience.advantages, inputs["advantages"], **close)
    assert_close(loss, expected, **close)
    assert_close(gradients, their_gradients, **close)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloo(beta):
    """TRL can also whiten advantages over the batch, which is off by default; ours never does."""
    made = networks()
    experience, loss, gradients, figures = ours(RLOO, *made, {"kl_coef": beta})
    inputs, expected, their_gradients, metrics = theirs(RLOOTrainer, *made, beta=beta)
    assert_close(experience.advantages, inputs["advantages"], **close)
    assert_close(loss, expected, **close)
    assert_close(gradients, their_gradients, **close)
    clipped = metrics["clip_ratio/region_mean"][0]
    assert 0 < clipped < 1
    assert figures["policy/clip_fraction"] == pytest.approx(clipped, rel=1e-5)
    whitened, *_ = theirs(RLOOTrainer, *made, beta=beta, normalize_advantages=True)
    assert not torch.allclose(whitened["advantages"], experience.advantages)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 6)])
def test_grpo_on_half_of_a_rollout(rows):
    """TRL divides each step by the mean count of tokens of a rollout's steps, ours by its own.

    So over a rollout all tokens count the same in TRL's, and in ours those of one step.
    """
    made = networks()
    _, loss, gradients, _ = ours(GRPO, *made, GRPO_SETTINGS, torch.arange(6)[rows])
    attributes = {"beta": 0.3, "scale_rewards": "group", "loss_type": "dapo"}
    inputs, *_ = theirs(GRPOTrainer, *made, **attributes)
    halves = {name: x[rows] if x.dim() else x for name, x in inputs.items()}
    this = trainer(GRPOTrainer, *made, **attributes)
    this.model, this.args.steps_per_generation = SimpleNamespace(training=True), 2
    made[0].zero_grad()
    expected = GRPOTrainer._compute_loss(this, made[0], halves)
    expected.backward()
    own, mean = sum(len(ids) for ids in RESPONSES[rows]), sum(map(len, RESPONSES)) / 2
    assert own != mean
    assert_close(loss * own, expected.detach() * mean, **close)
    their_gradients = [p.grad * mean for p in made[0].parameters()]
    assert_close([g * own for g in gradients], their_gradients, rtol=1e-5, atol=own * 1e-6)
