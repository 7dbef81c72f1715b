"""Bytes by hand: fp32 takes 4, bf16 takes 2."""

import gc

import pytest
import torch

from hydralign.planning.tracker import MemoryTracker

VOCAB = 50


@pytest.fixture
def tracker():
    with MemoryTracker(VOCAB) as entered:
        yield entered


def test_a_storage_counts_once_and_until_it_dies(tracker):
    a = torch.empty(10, 30)
    view = a.view(300)[5:].unsqueeze(0)
    assert tracker.alive.total() == 1200
    b = a.to(torch.bfloat16)
    assert tracker.alive.total() == 1800
    del a
    assert tracker.alive.total() == 1800  # the view holds it
    del view
    gc.collect()
    assert tracker.alive.total() == 600
    assert b.shape == (10, 30)


def test_the_peak_is_where_most_was_alive(tracker):
    a = torch.empty(100)
    del a
    b = torch.empty(25)
    assert (tracker.at_peak.total(), tracker.alive.total()) == (400, 100)
    tracker.restart()
    assert tracker.at_peak.total() == 100
    assert b.numel() == 25


def test_kinds_are_told_apart(tracker):
    with tracker.making("weights"):
        weight = torch.empty(8, VOCAB)
    logits = torch.empty(3, 8) @ weight
    cached = torch.empty(7)
    tracker.rename(cached, "KV cache")
    alive = {kind: size for kind, size in tracker.alive.items() if size}
    assert alive == {"weights": 8 * VOCAB * 4, "logits": 3 * VOCAB * 4, "KV cache": 28}
    assert logits.shape == (3, VOCAB)


def test_of_small_activations_as_much_again_is_lost():
    with MemoryTracker(VOCAB, broken_below=100) as tracker:
        with tracker.making("weights"):
            weight = torch.empty(10)
        small, large = torch.empty(24), torch.empty(25)
        assert tracker.alive == {"weights": 40, "activations": 196, "fragments": 96}
        assert tracker.at_peak.total() == 332
        del small
        assert tracker.alive["fragments"] == 0
        assert tracker.at_peak.total() == 332
    assert weight.numel() + large.numel() == 35


def test_nothing_is_allocated_and_autograd_keeps_what_it_would(tracker):
    weight = torch.empty(10**6, 10**5, requires_grad=True)  # 400 GB
    y = torch.empty(2, 10**6) @ weight
    kept = y.exp()  # keeps its result for the backward pass
    z = kept * 2
    del y, kept
    gc.collect()
    rows = 2 * 10**5 * 4
    assert tracker.alive.total() == 4 * 10**11 + 2 * 10**6 * 4 + rows + z.untyped_storage().nbytes()
    weight.register_post_accumulate_grad_hook(tracker.rename_gradient)
    z.sum().backward()
    assert tracker.alive["gradients"] == 4 * 10**11
