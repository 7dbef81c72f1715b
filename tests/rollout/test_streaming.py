"""Streaming beside the sampler of whole batches, and text that comes in pieces."""

import pytest
import torch

from hydralign.data.collate import collate_prompts
from hydralign.data.examples import PromptExample
from hydralign.micro_batches import MicroBatches
from hydralign.models.codec import make_codec
from hydralign.models.tiny_tokenizer import trained_tokenizer
from hydralign.rollout.decoding import GREEDY, Decoding
from hydralign.rollout.sampling import Sampling, sample_responses
from hydralign.rollout.streaming import stream_text, stream_tokens

PROMPTS = [[9, 11], [30], [1, 22, 45, 13, 40]]
TEXTS = ["a naïve café", "so 🙂👍🏽 it is", "日本語の文", "plain words, and  two spaces\n\n"]


def streamed(toys, policy, prompt, decoding, seed, most=12):
    generator = torch.Generator().manual_seed(seed)
    return list(stream_tokens(policy, prompt, toys.codec, decoding, generator, most=most))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "decoding", [GREEDY, Decoding(1.0), Decoding(0.8, top_p=0.7), Decoding(1.5, top_k=5)]
)
def test_the_tokens_are_those_of_the_sampler(toys, decoding, seed):
    policy = toys.role("policy")
    for ids in PROMPTS:
        example = PromptExample(ids, "", None)
        responses = sample_responses(
            policy,
            collate_prompts([example], [example], pad_id=0),
            toys.codec,
            Sampling(decoding.temperature, 12, MicroBatches(1)),
            torch.Generator().manual_seed(seed),
            None if decoding == Decoding(1.0) else decoding,
        )
        mask = responses.sequences.response_mask[0]
        expected = responses.sequences.response_ids[0, mask].tolist()
        assert streamed(toys, policy, ids, decoding, seed) == expected


def test_greedy_does_not_depend_on_the_seed_and_draws_do(toys):
    policy = toys.role("policy")
    greedy, drawn = (
        {tuple(streamed(toys, policy, [30], decoding, seed)) for seed in range(6)}
        for decoding in (GREEDY, Decoding(1.0))
    )
    assert len(greedy) == 1 < len(drawn)


@pytest.fixture(scope="module")
def byte_codec(tmp_path_factory):
    """Knows hardly more than bytes, so that rare characters are several tokens."""
    return make_codec(trained_tokenizer(["a b c"], 262, tmp_path_factory.mktemp("bytes")))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_and_no_character_is_broken(byte_codec, text):
    ids = byte_codec.tokenizer.encode(text, add_special_tokens=False)
    pieces = list(stream_text([*ids, byte_codec.stop_id], byte_codec))
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) > 4


def test_a_piece_comes_as_soon_as_it_is_whole(byte_codec):
    ids = byte_codec.tokenizer.encode("aéb", add_special_tokens=False)
    assert len(ids) == 4
    tokens, seen = iter(ids), []

    def counted():
        for token in tokens:
            seen.append(token)
            yield token

    came = [(piece, len(seen)) for piece in stream_text(counted(), byte_codec)]
    assert came == [("a", 1), ("é", 3), ("b", 4)]


def test_half_a_character_at_the_end_is_shown_as_the_whole_is_decoded(byte_codec):
    ids = byte_codec.tokenizer.encode("aé", add_special_tokens=False)[:-1]
    assert "".join(stream_text(ids, byte_codec)) == byte_codec.decode_ids(ids)
