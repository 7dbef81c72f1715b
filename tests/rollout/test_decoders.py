"""The decoder in which nothing moves, against the one that grows: the same logits at each step."""

import pytest
import torch
from torch.testing import assert_close
from transformers.cache_utils import DynamicCache

from hydralign.models.assembly import suit_machine
from hydralign.rl.masks import position_ids
from hydralign.rollout import decoders, recorded
from hydralign.rollout.decoders import GrowingDecoder, make_decoder
from hydralign.rollout.recorded import FixedDecoder, RecordedDecoder

PROMPTS = torch.tensor([[0, 0, 9, 11], [30, 14, 7, 8], [0, 22, 45, 13]])
READ = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
NEXT = torch.tensor([[5, 6, 7, 8, 9], [40, 30, 20, 10, 5], [11, 11, 11, 11, 11]])


def read(policy):
    cache, positions = DynamicCache(), position_ids(READ)
    policy.next_token_logits(PROMPTS, READ, positions, cache)
    return policy, READ, positions, cache


@pytest.mark.parametrize("room", [5, 9])
@pytest.mark.parametrize("attention", ["sdpa", None])
@torch.no_grad()
def test_a_cache_that_stays_in_place_gives_what_one_that_grows_gives(toys, room, attention):
    policy = toys.role("policy")
    suit_machine({"policy": policy}, checkpoints=False, logits_mb=None, attention=attention)
    fixed, growing = FixedDecoder(*read(policy), room), GrowingDecoder(*read(policy))
    for t in range(NEXT.shape[1]):
        ids = NEXT[:, t : t + 1]
        assert_close(fixed(ids), growing(ids), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_nothing_of_it_moves_in_memory(toys):
    decoder = FixedDecoder(*read(toys.role("policy")), 5)

    def places():
        of_layers = [
            x.data_ptr() for layer in decoder.cache.layers for x in (layer.keys, layer.values)
        ]
        own = (decoder.ids, decoder.positions, decoder.mask, decoder.place)
        return of_layers + [x.data_ptr() for x in own]

    before = places()
    for t in range(5):
        decoder(NEXT[:, t : t + 1])
    assert places() == before
    assert decoder.mask.shape == (3, 1, 1, 9)
    assert decoder.mask[0, 0, 0].tolist() == [False, False] + [True] * 7


@torch.no_grad()
def test_only_what_was_asked_for_on_a_gpu_is_recorded(toys):
    policy = toys.role("policy")
    policy.records_decoding = True
    assert type(make_decoder(*read(policy), 99)) is GrowingDecoder  # this is a CPU


@pytest.fixture
def recorder(monkeypatch):
    """In place of CUDA: a graph that calls the step anew. The rest is the same on every device."""
    calls = []

    class Graph:
        def replay(self):
            calls.append("replay")
            self.decoder.logits.copy_(self.decoder.run_policy())

        def reset(self):
            calls.append("reset")

    class Context:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def wait_stream(self, _):
            pass

    for name in ("Stream", "stream", "graph", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, Context)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(recorded, "_stream_aside", Context)
    return calls


@torch.no_grad()
def test_a_recording_is_made_once_and_replayed(toys, recorder):
    policy = toys.role("policy")
    decoder, growing = RecordedDecoder(*read(policy), 5), GrowingDecoder(*read(policy))
    decoder.graph.decoder = decoder
    for t in range(NEXT.shape[1]):
        ids = NEXT[:, t : t + 1]
        assert_close(decoder(ids), growing(ids), rtol=1e-5, atol=1e-6)
    decoder.close()
    assert recorder == ["replay"] * 5 + ["reset"]


@torch.no_grad()
def test_what_cannot_be_recorded_runs_step_by_step_and_says_so_once(
    toys, recorder, monkeypatch, caplog
):
    class Fails:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            raise RuntimeError("operation not permitted when stream is capturing")

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(torch.cuda, "graph", Fails)
    policy = toys.role("policy")
    policy.records_decoding = True
    decoder, growing = RecordedDecoder(*read(policy), 5), GrowingDecoder(*read(policy))
    for t in range(NEXT.shape[1]):
        ids = NEXT[:, t : t + 1]
        assert_close(decoder(ids), growing(ids), rtol=1e-5, atol=1e-6)
    decoder.close()
    assert "cannot be recorded (operation not permitted" in caplog.text
    assert not policy.records_decoding
    assert recorder == ["reset"]


@torch.no_grad()
def test_memory_that_runs_out_while_recording_is_told_as_such(toys, recorder, monkeypatch):
    """The end of the recording fails too, and hides it."""

    class Hides:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("capture was invalidated")

    monkeypatch.setattr(torch.cuda, "graph", Hides)
    policy = toys.role("policy")
    given, logits = read(policy), policy.next_token_logits
    calls = []

    def short(*args):
        calls.append(args)
        if len(calls) > recorded.WARM_UP:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(*args)

    policy.next_token_logits = short
    with pytest.raises(torch.OutOfMemoryError):
        RecordedDecoder(*given, 5)


@torch.no_grad()
def test_a_few_steps_are_not_worth_a_recording(toys, monkeypatch):
    monkeypatch.setattr(decoders, "can_be_recorded", lambda *_: True)
    monkeypatch.setattr(decoders, "RecordedDecoder", FixedDecoder)
    kinds = [type(make_decoder(*read(toys.role("policy")), room)) for room in (7, 8)]
    assert kinds == [GrowingDecoder, FixedDecoder]
