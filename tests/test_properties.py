"""What must hold for any batch of sequences, tried on random ones.

More of the like stands beside the code: `rollout/test_collect.py` (the first ratio is 1, the first
KL 0), `stages/test_gradients.py` (micro-batches), `stages/test_what_changes.py` (frozen weights).
"""

import random

import pytest
import torch
from torch.testing import assert_close

from hydralign.models.assembly import RoleSpec
from hydralign.models.attention import set_attention
from hydralign.rl import packing
from hydralign.rl.sequences import Sequences, pad_sequences

SPECS = {
    "policy": RoleSpec("policy"),
    "value_model": RoleSpec("reward_model", trained=True, scalar=True),
}
SEEDS = range(3)


@pytest.fixture(params=["sdpa", "grouped", "eager"])
def attention(request):
    return request.param


@pytest.fixture(params=["own-llama", "lora-llama", "own-gpt2", "lora-gpt2"])
def roles(request, attention, make_toys):
    made = make_toys(*request.param.split("-")).roles(SPECS)
    for role in made.values():
        set_attention(role.network.language_model, attention)
    return made


@pytest.fixture(autouse=True)
def _groups(monkeypatch):
    monkeypatch.setitem(packing.GROUP_COST, "cpu", 5)


def random_texts(seed):
    """Three to seven prompts and responses of one to nine tokens, any id among them."""
    draw = random.Random(seed)
    n = draw.randint(3, 7)
    return [
        [[draw.randrange(47) for _ in range(draw.randint(1, 9))] for _ in range(n)] for _ in "pr"
    ]


def says(roles, sequences):
    """Log-probs and values of the counted tokens row by row, and scores."""
    mask = sequences.response_mask
    with torch.no_grad():
        logprobs = roles["policy"](sequences, temperature=0.7)
        values = roles["value_model"].values(sequences)
        scores = roles["value_model"].scores(sequences)
    return [
        torch.cat([logprobs[row][mask[row]], values[row][mask[row]], scores[row : row + 1]])
        for row in range(len(sequences))
    ]


def widened(sequences, left, right):
    """The same batch with more padding, of ids that mean something elsewhere."""
    n = len(sequences)
    wide = [torch.full((n, left), 9), sequences.sequence_ids, torch.full((n, right), 2)]
    nothing = [torch.zeros(n, left).bool(), torch.zeros(n, right).bool()]
    attention = torch.cat([nothing[0], sequences.attention_mask, nothing[1]], dim=1)
    mask = torch.cat([sequences.response_mask, nothing[1]], dim=1)
    return Sequences(torch.cat(wide, dim=1), attention, mask)


def equal(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_rows_do_not_know_of_each_other(roles):
    for seed in SEEDS:
        prompts, responses = random_texts(seed)
        together = says(roles, pad_sequences(prompts, responses, pad_id=0))
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            equal(
                says(roles, pad_sequences([prompt], [response], pad_id=0)), together[row : row + 1]
            )


def test_more_padding_on_either_side_changes_nothing(roles):
    for seed in SEEDS:
        sequences = pad_sequences(*random_texts(seed), pad_id=0)
        expected = says(roles, sequences)
        for left, right in ((3, 0), (0, 4), (2, 5)):
            equal(says(roles, widened(sequences, left, right)), expected)


def test_the_order_of_rows_is_the_order_of_answers(roles):
    for seed in SEEDS:
        sequences = pad_sequences(*random_texts(seed), pad_id=0)
        order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed))
        expected = says(roles, sequences)
        equal(says(roles, sequences.select(order)), [expected[row] for row in order.tolist()])


def test_ids_in_padding_change_no_gradient(roles, with_garbage):
    for seed in SEEDS:
        tidy = pad_sequences(*random_texts(seed), pad_id=0)
        value_model, gradients = roles["value_model"], []
        torch.manual_seed(seed)
        for sequences in (tidy, with_garbage(tidy)):
            values = value_model.values(sequences)[sequences.response_mask]
            loss = values.square().sum() + value_model.scores(sequences).sum()
            parameters = value_model.trained_parameters()
            gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
        assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_what_comes_later_does_not_change_what_came_before(roles):
    """The value and the log-prob of a token do not depend on the tokens after it."""
    for seed in SEEDS:
        prompts, responses = random_texts(seed)
        longer = [[*response, 7, 8] for response in responses]
        whole, more = (pad_sequences(prompts, r, pad_id=0) for r in (responses, longer))
        for row, response in enumerate(responses):
            n = len(response)
            for before, after in (
                (roles["policy"](whole), roles["policy"](more)),
                (roles["value_model"].values(whole), roles["value_model"].values(more)),
            ):
                assert_close(after[row, :n], before[row, :n], rtol=1e-5, atol=1e-5)
