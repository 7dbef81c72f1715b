"""Rows at a time, and what happens when memory does not suffice for them."""

import gc
import logging
import weakref

import pytest
import torch

from hydralign.errors import UserError, is_out_of_memory
from hydralign.micro_batches import MicroBatches

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words."


def only(limit, seen):
    """A function for which there is room for some rows only."""

    def function(rows):
        seen.append(len(rows))
        if len(rows) > limit:
            raise torch.OutOfMemoryError(SAID)
        return rows * 10

    return function


def test_rows_go_through_some_at_a_time():
    seen = []
    found = MicroBatches(3).over(torch.arange(7), only(3, seen))
    assert found.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert seen == [3, 3, 1]


def test_no_rows_go_through_once():
    """A role that is asked for nothing still says of what shape nothing is."""
    assert MicroBatches(3).over(torch.arange(0), only(3, [])).shape == (0,)


def test_what_does_not_fit_is_halved_and_what_is_done_is_kept(caplog):
    seen, micro_batches = [], MicroBatches(12, "hardware.score_micro_batch_size")

    def later_less(rows):
        return only(12 if int(rows[0]) == 0 else 4, seen)(rows)

    with caplog.at_level(logging.WARNING):
        assert micro_batches.over(torch.arange(20), later_less).tolist() == [*range(0, 200, 10)]
    assert seen == [12, 8, 8, 4, 4]  # eight once more: twelve had fitted
    assert micro_batches.size == 4  # half of the eight that were left, not of twelve
    assert len(caplog.messages) == 1
    assert "hardware.score_micro_batch_size=4" in caplog.messages[0]
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB.)" in caplog.messages[0]


def test_the_setting_counts_rows():
    assert MicroBatches(3, "train", rows=16).override == "train=48"


def test_an_attempt_begins_anew_and_what_it_held_is_free():
    held, seen = [], []

    class Held:
        pass

    def attempt(size):
        seen.append(size)
        gc.collect()
        assert all(dead() is None for dead in held)
        mine = Held()
        held.append(weakref.ref(mine))
        if size > 1:
            raise torch.OutOfMemoryError(SAID)
        return size

    assert MicroBatches(5).run(attempt) == 1
    assert seen == [5, 2, 1]


def test_with_one_row_it_ends_with_what_the_plan_said():
    micro_batches = MicroBatches(1, "hardware.train_micro_batch_size")
    micro_batches.planned = "The plan was 9.9 GB. "
    with pytest.raises(UserError) as told:
        micro_batches.over(torch.arange(3), only(0, []))
    words = (
        "even with hardware.train_micro_batch_size=1: CUDA out of memory.",
        "was 9.9 GB",
        "plan.py",
    )
    assert all(part in str(told.value) for part in words)


def test_the_real_thing_is_known_for_what_it_is():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"))


def test_other_failures_pass_through():
    def wrong(size):
        raise RuntimeError("shapes cannot be multiplied")

    micro_batches = MicroBatches(8)
    with pytest.raises(RuntimeError, match="shapes"):
        micro_batches.run(wrong)
    assert micro_batches.size == 8


def test_a_size_that_was_found_is_adopted_unless_another_is_asked_for(caplog):
    with caplog.at_level(logging.WARNING):
        here = MicroBatches(8, "train")
        here.adopt((8, 2))
        assert here.state() == (8, 2)
        assert "Going on with train=2" in caplog.messages[0]
        here.adopt((8, 4))  # what another process had to do does not help this one
        assert here.state() == (8, 2)
        larger = MicroBatches(16, "train")
        larger.adopt((8, 2))
        assert larger.state() == (16, 16)
    assert len(caplog.messages) == 1


def test_a_shortage_that_passes_costs_nothing():
    """Another process may have taken the memory for a moment."""
    short = [True]

    def function(rows):
        if len(rows) == 1 and short.pop():
            short.append(False)
            raise torch.OutOfMemoryError(SAID)
        return rows

    micro_batches = MicroBatches(32)
    assert len(micro_batches.over(torch.arange(33), function)) == 33
    assert micro_batches.size == 32
