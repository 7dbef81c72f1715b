"""The file of a checkpoint, and when it is written."""

import dataclasses
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from hydralign.callbacks.checkpoints import (
    CHECKPOINT,
    Checkpoints,
    WholeFile,
    check_fits,
    read_checkpoint,
)
from hydralign.errors import UserError
from hydralign.micro_batches import MicroBatches
from hydralign.ranks import Ranks
from hydralign.stages.context import StageContext
from hydralign.stages.guards import Guard


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": Bomb()}, tmp_path / CHECKPOINT)
    with pytest.raises(UserError, match="is no checkpoint that can be read"):
        WholeFile().load_checkpoint(tmp_path / CHECKPOINT)
    assert "boom" not in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path):
    WholeFile().save_checkpoint({"step": torch.tensor(1)}, tmp_path / CHECKPOINT)

    class Full:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        WholeFile().save_checkpoint({"step": torch.tensor(2), "x": Full()}, tmp_path / CHECKPOINT)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert read_checkpoint(tmp_path / CHECKPOINT)["step"] == 1


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    for layout in ({}, {"layout": 1}):
        WholeFile().save_checkpoint({"made_with": {}, **layout}, tmp_path / CHECKPOINT)
        with pytest.raises(UserError, match="is of another version of hydralign"):
            check_fits(tmp_path / CHECKPOINT, None, None)


def test_processes_take_over_the_smallest_size_that_one_of_them_found(tmp_path):
    class Others(Ranks):
        def gather(self, item):
            due, stopping, _ = item
            return [item, (due, stopping, [(8, 2), (8, 8), (4, 1)])]

    sizes = MicroBatches(8), MicroBatches(8), MicroBatches(4)
    names = ("training", "scoring", "generation")
    fields = dict.fromkeys(f.name for f in dataclasses.fields(StageContext))
    context = StageContext(**fields | dict(zip(names, sizes, strict=True)) | {"guard": Guard()})
    callback = Checkpoints(tmp_path, Others(0, 2), minutes=60)
    callback._saved = time.monotonic()
    callback._between_steps(SimpleNamespace(lightning_module=SimpleNamespace(context=context)))
    assert [each.size for each in sizes] == [2, 8, 1]


def test_told_twice_it_stops_at_once(tmp_path):
    callback = Checkpoints(tmp_path, Ranks(), minutes=1)
    callback._told_to_stop(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        callback._told_to_stop(signal.SIGINT, None)
