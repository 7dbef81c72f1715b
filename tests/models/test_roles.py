"""What roles say, against plain transformers run on each row by itself, without any padding."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from hydralign.models.assembly import RoleSpec
from hydralign.models.attention import set_attention, takes_packed_rows
from hydralign.models.roles import Network, TextRole
from hydralign.rl import packing

SPECS = {
    "policy": RoleSpec("policy"),
    "reward_model": RoleSpec("reward_model", scalar=True),
}


@pytest.fixture(autouse=True, params=[5, 1000])
def group_cost(request, monkeypatch):
    """Five rows are attended to in three groups of alike length, or all together."""
    monkeypatch.setitem(packing.GROUP_COST, "cpu", request.param)


@pytest.fixture(params=["sdpa", "grouped", "eager"])
def attention(request):
    """With `eager` rows are padded in the whole network, with the others in attention."""
    return request.param


@pytest.fixture(params=["own-llama", "lora-llama", "own-gpt2", "lora-gpt2"])
def roles(request, attention, make_toys):
    """Llama rotates by position, GPT-2 adds a vector for each: only GPT-2 notices a shift."""
    made = make_toys(*request.param.split("-")).roles(SPECS)
    for role in made.values():
        set_attention(role.network.language_model, attention)
        assert takes_packed_rows(role.network.language_model) == (attention != "eager")
    return made


def plain_logits(role, lone):
    """Logits (r, v) that predict each response token, straight from the language model."""
    role.network.prepare()
    ids = lone.sequence_ids
    with torch.no_grad():
        logits = role.network.language_model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(ids.shape[1]).unsqueeze(0),
        ).logits
    # Response token i stands at prompt_length + i and is predicted one place before.
    return logits[0, lone.prompt_length - 1 : -1]


def plain_states(role, lone):
    """Hidden states (t, d) of one row."""
    role.network.prepare()
    with torch.no_grad():
        transformer = role.network.language_model.base_model
        return transformer(input_ids=lone.sequence_ids).last_hidden_state[0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropy_are_those_of_plain_transformers(
    roles, sequences, lone_sequences, temperature
):
    policy = roles["policy"]
    stats = policy.stats(sequences, temperature=temperature)
    assert torch.equal(stats.logprobs, policy(sequences, temperature=temperature))
    for row, lone in enumerate(lone_sequences):
        logprobs = torch.log_softmax(plain_logits(policy, lone) / temperature, dim=-1)
        n = len(logprobs)
        expected = logprobs[torch.arange(n), lone.response_ids[0]]
        assert_close(stats.logprobs[row, :n], expected, rtol=1e-5, atol=1e-5)
        entropy = torch.distributions.Categorical(logits=logprobs).entropy()
        assert_close(stats.entropy[row, :n], entropy, rtol=1e-5, atol=1e-5)
        assert stats.logprobs[row, n:].tolist() == [0.0] * (6 - n)


def test_values_and_scores_are_the_head_on_plain_hidden_states(roles, sequences, lone_sequences):
    role = roles["reward_model"]
    values, scores = role.values(sequences), role.scores(sequences)
    for row, lone in enumerate(lone_sequences):
        raw = plain_states(role, lone) @ role.head.weight[0]
        expected = (raw - 0.3) / 1.7  # the scale that the artifact says
        p, n = lone.prompt_length, len(lone.response_ids[0])
        assert_close(values[row, :n], expected[p - 1 : -1], rtol=1e-5, atol=1e-5)
        assert_close(scores[row], expected[-1], rtol=1e-5, atol=1e-5)


def test_a_row_alone_says_what_it_says_in_a_padded_batch(roles, sequences, lone_sequences):
    policy, scalar = roles["policy"], roles["reward_model"]
    logprobs, values, scores = policy(sequences), scalar.values(sequences), scalar.scores(sequences)
    for row, lone in enumerate(lone_sequences):
        n = len(lone.response_ids[0])
        assert_close(policy(lone)[0], logprobs[row, :n], rtol=1e-5, atol=1e-5)
        assert_close(scalar.values(lone)[0], values[row, :n], rtol=1e-5, atol=1e-5)
        assert_close(scalar.scores(lone)[0], scores[row], rtol=1e-5, atol=1e-5)


def test_scores_do_not_depend_on_batch_mates(roles, sequences):
    scores = roles["reward_model"].scores
    expected = scores(sequences)
    for rows in ([4, 2, 0, 1, 3], [1, 1, 1], [3, 0]):
        chosen = torch.tensor(rows)
        assert_close(scores(sequences.select(chosen)), expected[chosen], rtol=1e-5, atol=1e-5)


def test_ids_in_padding_change_nothing(roles, sequences, with_garbage):
    policy, scalar = roles["policy"], roles["reward_model"]
    other, mask = with_garbage(sequences), sequences.response_mask
    assert_close(policy(other), policy(sequences), rtol=1e-5, atol=1e-5)
    assert_close(scalar.scores(other), scalar.scores(sequences), rtol=1e-5, atol=1e-5)
    expected = scalar.values(sequences)[mask]
    assert_close(scalar.values(other)[mask], expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_off_even_in_training_mode(roles, sequences):
    policy = roles["policy"]
    expected = policy(sequences)
    policy.train()
    assert policy.network.language_model.training
    assert torch.equal(policy(sequences), expected)


def test_two_roles_of_one_artifact_agree_to_the_last_bit(make_toys, sequences):
    for kind in ("own", "lora"):
        specs = {"policy": RoleSpec("policy", trained=True), "reference": RoleSpec("policy")}
        roles = make_toys(kind).roles(specs)
        policy, reference = roles["policy"](sequences), roles["reference"](sequences)
        assert torch.equal(policy, reference)


def test_fresh_adapters_are_the_base(make_toys, sequences):
    toys = make_toys("lora")
    fresh = toys.roles({"policy": RoleSpec(trained=True)})["policy"]
    plain = TextRole(Network(toys.base.load(vocab_size=47, seed=0), trained=False))
    assert torch.equal(fresh(sequences), plain(sequences))


@pytest.mark.parametrize("kind", ["own", "lora", "nf4", "int8"])
def test_what_saves_memory_changes_neither_logprobs_nor_gradients(make_toys, kind, sequences):
    found = []
    for sparing in (False, True):
        policy = make_toys(kind).role("policy", trained=True)
        if sparing:
            policy.network.checkpoint_activations()
            policy.chunk_size = 2
        passes, chunks = [], []
        layer = policy.network.language_model.base_model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_, to=passes: to.append(1))
        head = policy.network.language_model.lm_head
        head.register_forward_pre_hook(lambda _, states, to=chunks: to.append(len(states[0])))
        logprobs = policy(sequences)
        logprobs.square().sum().backward()
        found.append((logprobs, [parameter.grad for parameter in policy.trained_parameters()]))
        tokens = int(sequences.response_mask.sum())
        assert len(passes) == (2 if sparing else 1)
        # An LM head that trains needs the logits again, for its own gradient.
        passes_of_logits = 2 if sparing and kind == "own" else 1
        assert (max(chunks), sum(chunks)) == (2 if sparing else tokens, passes_of_logits * tokens)
    assert_close(*found, rtol=1e-3, atol=1e-5)  # sums in another order
    assert max(gradient.abs().max() for gradient in found[0][1]) > 1e-2


def test_checkpointing_leaves_the_cache_to_sampling(make_toys):
    found = []
    for sparing in (False, True):
        policy = make_toys("lora").role("policy", trained=True)
        if sparing:
            policy.network.checkpoint_activations()
        policy.train()
        ids, cache = torch.tensor([[9, 11, 5]]), DynamicCache()
        mask = torch.ones_like(ids).bool()
        with torch.no_grad():
            logits = policy.next_token_logits(ids, mask, torch.arange(3).unsqueeze(0), cache)
        assert cache.get_seq_length() == 3
        found.append(logits)
    assert torch.equal(*found)
