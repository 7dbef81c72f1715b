"""Sampling, against scripts written by hand, plain softmax, and transformers' own greedy search."""

import pytest
import torch
from torch.testing import assert_close

from hydralign.data.collate import PromptBatch, collate_prompts
from hydralign.data.examples import PromptExample
from hydralign.errors import UserError
from hydralign.micro_batches import MicroBatches
from hydralign.models.roles import TextRole
from hydralign.rollout.sampling import Sampling, draw_tokens, sample_responses

PAD, EOS, A, B, C, X = 0, 2, 3, 4, 5, 28  # a, b and c stop too, in the codec of the toys
PROMPTS = [[9, 11], [30], [1, 22, 45, 13, 40], [17, 17, 8], [44, 12]]


def batch_of(prompts):
    examples = [PromptExample(ids, f"prompt {ids}", None) for ids in prompts]
    return collate_prompts(examples, examples, pad_id=PAD)


def sample(
    policy, prompts, codec, *, temperature=1.0, tokens=6, batch_size=99, seed=0, group_size=1
):
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(temperature, tokens, MicroBatches(batch_size), group_size=group_size)
    batch = prompts if isinstance(prompts, PromptBatch) else batch_of(prompts)
    return sample_responses(policy, batch, codec, sampling, generator)


class Script:
    """Says given tokens, row by row, as if the network knew nothing else."""

    def __init__(self, *rows):
        self.rows, self.calls = rows, []

    def next_token_logits(self, ids, attention_mask, position_ids, cache):
        t = 0 if not self.calls else self.calls[-1][0] + 1
        self.calls.append((t, ids.tolist(), attention_mask.int().tolist(), position_ids.tolist()))
        numbers = torch.arange(len(self.rows)).view(-1, 1, 1, 1)
        if t == 0:  # the cache knows which rows are left
            cache.update(numbers, numbers, 0)
        left = cache.layers[0].keys.flatten().tolist()
        assert len(left) == len(ids)
        said = [self.rows[row][min(t, len(self.rows[row]) - 1)] for row in left]
        return torch.full((len(ids), 47), -1e9).scatter(1, torch.tensor(said).unsqueeze(1), 1e9)


@pytest.fixture
def codec(make_toys):
    return make_toys("own").codec


def test_responses_count_up_to_and_including_their_first_stop_token(codec):
    script = Script([X, A, X, EOS], [EOS, X, A, X], [X, X, X, X], [X, X, X, B], [30, EOS, EOS, A])
    responses = sample(script, PROMPTS, codec, tokens=4)
    sequences = responses.sequences
    assert sequences.response_mask.int().tolist() == [
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 0, 0],
    ]
    assert sequences.response_ids.tolist() == [
        [X, A, PAD, PAD],
        [EOS, PAD, PAD, PAD],
        [X, X, X, X],
        [X, X, X, B],
        [30, EOS, PAD, PAD],
    ]
    assert responses.finished.tolist() == [True, True, False, True, True]
    assert responses.texts == ("za", "", "zzzz", "zzzb", ",")  # the letters that stop are text
    assert responses.prompts[1] == "prompt [30]"
    assert sequences.attention_mask[:, 5:].equal(sequences.response_mask)
    assert sequences.sequence_ids[2, :5].tolist() == [1, 22, 45, 13, 40]
    assert sequences.attention_mask[:, :5].sum(1).tolist() == [2, 1, 5, 3, 2]


def test_each_step_feeds_the_new_token_at_its_own_position(codec):
    script = Script([X, 30, 31], [40, 41, 42])
    sample(script, [[9, 11, 12], [30]], codec, tokens=3)
    assert script.calls == [
        (0, [[9, 11, 12], [PAD, PAD, 30]], [[1, 1, 1], [0, 0, 1]], [[0, 1, 2], [0, 0, 0]]),
        (1, [[X], [40]], [[1, 1, 1, 1], [0, 0, 1, 1]], [[3], [1]]),
        (2, [[30], [41]], [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], [[4], [2]]),
    ]


def test_sampling_stops_early_when_all_have_stopped(codec):
    script = Script([EOS, X, X], [X, C, X])
    responses = sample(script, [[9], [30]], codec, tokens=7)
    assert [len(ids) for _, ids, _, _ in script.calls] == [2, 1]  # who has stopped has left
    assert responses.sequences.response_mask.sum(1).tolist() == [1, 2]
    assert responses.sequences.response_mask.shape == (2, 7)


def test_rows_leave_when_a_quarter_has_finished_and_the_others_go_on_undisturbed(codec):
    long = [[30 + i, 31 + i, 32 + i, 33 + i, EOS] for i in range(4)]
    script = Script(*long[:2], [X, EOS], *long[2:], [X, X, EOS], [EOS])
    responses = sample(script, [[9 + i] * (i + 1) for i in range(7)], codec, tokens=9)
    found = [
        row[mask].tolist()
        for row, mask in zip(
            responses.sequences.response_ids, responses.sequences.response_mask, strict=True
        )
    ]
    assert found == [*long[:2], [X, EOS], *long[2:], [X, X, EOS], [EOS]]
    assert [len(ids) for _, ids, _, _ in script.calls] == [7, 7, 5, 5, 5]
    _, ids, masks, positions = script.calls[3]
    assert ids == [[32], [33], [34], [35], [EOS]]
    assert [sum(mask) for mask in masks] == [1 + 3, 2 + 3, 4 + 3, 5 + 3, 6 + 3]
    assert positions == [[3], [4], [6], [7], [8]]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("kind", ["own", "lora"])
def test_generation_batch_size_is_a_matter_of_memory_only(make_toys, kind, batch_size):
    toys = make_toys(kind)
    policy = toys.role("policy")
    responses = sample(policy, PROMPTS, toys.codec, tokens=6, batch_size=batch_size)
    sequences = responses.sequences
    together = sample(policy, PROMPTS, toys.codec, tokens=6).sequences
    assert torch.equal(sequences.sequence_ids, together.sequence_ids)
    assert sequences.sequence_ids.shape == (5, 5 + 6)
    assert sequences.response_mask.shape == (5, 6)
    assert (len(responses.texts), responses.finished.shape) == (5, (5,))
    assert torch.equal(sequences.sequence_ids[:, :5], batch_of(PROMPTS).prompt_ids)


@pytest.mark.parametrize("batch_size", [4, 5, 99])  # groups whole, and parted
def test_a_group_is_what_its_prompt_so_many_times_would_be(make_toys, batch_size):
    toys = make_toys("lora")
    prompts = PROMPTS[:3]
    group = sample(toys.role("policy"), prompts, toys.codec, batch_size=batch_size, group_size=4)
    repeated = [prompt for prompt in prompts for _ in range(4)]
    apart = sample(toys.role("policy"), repeated, toys.codec)
    assert torch.equal(group.sequences.sequence_ids, apart.sequences.sequence_ids)
    assert torch.equal(group.sequences.attention_mask, apart.sequences.attention_mask)
    assert torch.equal(group.finished, apart.finished)
    assert (group.prompts, group.texts) == (apart.prompts, apart.texts)
    assert len(set(group.texts[:4])) > 1
    assert len(group.answers) == 12


def test_a_group_reads_its_prompt_once(codec):
    script = Script([X, 30], [40, 41])
    responses = sample(script, [[9, 11], [30]], codec, tokens=2, group_size=3)
    (_, read, *_), (_, said, masks, positions) = script.calls
    assert read == [[9, 11], [PAD, 30]]
    assert said == [[X], [X], [X], [40], [40], [40]]
    assert masks == [[1, 1, 1]] * 3 + [[0, 1, 1]] * 3
    assert positions == [[2]] * 3 + [[1]] * 3
    assert responses.sequences.response_ids.tolist() == [[X, 30]] * 3 + [[40, 41]] * 3


@pytest.mark.parametrize("name", ["own-llama", "lora-llama", "own-gpt2"])
def test_near_certain_choices_are_those_of_greedy_search_on_each_prompt_alone(make_toys, name):
    toys = make_toys(*name.split("-"))
    policy = toys.role("policy")
    together = sample(policy, PROMPTS, toys.codec, temperature=1e-4, tokens=7)
    lengths = set()
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        greedy = policy.network.language_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=7,
            eos_token_id=list(toys.codec.stop_ids),
            pad_token_id=PAD,
        )[0, len(prompt) :].tolist()
        mask = together.sequences.response_mask[row]
        assert together.sequences.response_ids[row][mask].tolist() == greedy
        lengths.add(len(greedy))
    assert len(lengths) > 1  # some have stopped and some have not


def chi_square(responses, probabilities):
    """Pearson's statistic of the first tokens, rare tokens taken together, and its 99.9 % point."""
    counts = torch.bincount(responses.sequences.response_ids[:, 0], minlength=47).double()
    expected = probabilities.double() * counts.sum()
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum().unsqueeze(0)])
    expected = torch.cat([expected[~rare], expected[rare].sum().unsqueeze(0)])
    k = len(counts) - 1
    bound = k * (1 - 2 / (9 * k) + 3.09 * (2 / (9 * k)) ** 0.5) ** 3  # Wilson and Hilferty 1931
    return ((counts - expected) ** 2 / expected).sum().item(), bound


def test_a_token_is_drawn_where_the_cumulative_sum_passes_the_uniform_number():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25], [0.5, 0.5, 0.0, 0.0, 0.0]] * 50)
    uniform = torch.rand(100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = draw_tokens(probs, uniform).squeeze(1).tolist()
    for row, u in enumerate(uniform.flatten().tolist()):
        even = 1 if u < 0.25 else 3 if u < 0.75 else 4
        assert drawn[row] == (even if row % 2 == 0 else int(u >= 0.5))


def test_a_policy_that_has_diverged_is_told():
    probs = torch.tensor([[0.5, 0.5], [float("nan"), 0.5]])
    with pytest.raises(UserError, match="training has diverged. Begin anew"):
        draw_tokens(probs, torch.rand(2, 1).double())


def test_rare_tokens_of_a_large_vocabulary_are_not_rounded_away():
    rare = 2.0**-25  # below the resolution of fp32 near 1
    probs = torch.full((1, 40_001), rare)
    probs[0, 0] = 1 - 40_000 * rare
    half_way = torch.tensor([[1 - 20_000.5 * rare]], dtype=torch.float64)
    assert draw_tokens(probs, half_way).item() == 20_000


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_are_as_frequent_as_the_softmax_says(make_toys, temperature):
    toys = make_toys("own")
    policy: TextRole = toys.role("policy")
    prompt = torch.tensor([[1, 22, 45, 13, 40]])
    with torch.no_grad():
        logits = policy.network.language_model(input_ids=prompt).logits[0, -1]
    rows = batch_of([prompt[0].tolist()] * 8000)
    responses = sample(policy, rows, toys.codec, temperature=temperature, tokens=1, seed=5)
    statistic, bound = chi_square(responses, (logits / temperature).softmax(-1))
    assert statistic < bound
    # The test can tell: another temperature, or the 40 likeliest tokens only, would not pass.
    assert chi_square(responses, (logits / (1.7 - temperature)).softmax(-1))[0] > 2 * bound
    likeliest = logits.where(logits >= logits.topk(40).values[-1], torch.tensor(-30.0))
    assert chi_square(responses, (likeliest / temperature).softmax(-1))[0] > 2 * bound


def test_equal_seeds_draw_equally_and_leave_the_global_generator_alone(make_toys):
    toys = make_toys("own")
    policy = toys.role("policy")
    state = torch.get_rng_state()
    first, second, third = (sample(policy, PROMPTS, toys.codec, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.sequences.sequence_ids, second.sequences.sequence_ids)
    assert not torch.equal(first.sequences.sequence_ids, third.sequences.sequence_ids)


def test_what_is_sampled_has_no_gradient(make_toys):
    toys = make_toys("own")
    sequences = sample(toys.role("policy"), PROMPTS, toys.codec).sequences
    assert_close(sequences.sequence_ids.requires_grad, False)
    assert sequences.response_mask.dtype == sequences.attention_mask.dtype == torch.bool
