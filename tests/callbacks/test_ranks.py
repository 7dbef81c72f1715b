from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from hydralign.callbacks.ranks import SameRun
from hydralign.errors import UserError
from hydralign.ranks import Ranks


@dataclass(frozen=True)
class Others(Ranks):
    """Processes of which the others always answer alike."""

    said: tuple[object, ...] = ()

    def gather(self, item):
        return [item, *self.said]

    def sum_(self, gradients):
        for gradient in gradients:
            gradient += 10


def trainer(rank, size):
    return SimpleNamespace(global_rank=rank, world_size=size)


def test_processes_that_belong_together_may_start():
    SameRun(Others(0, 2, ("abc",)), "abc").on_fit_start(trainer(0, 2), None)


@pytest.mark.parametrize("found", [(0, 2), (1, 1), (1, 4)])
def test_a_process_that_another_launcher_started_is_refused(found):
    # Under srun both processes of two take themselves for the first.
    callback = SameRun(Others(1, 2, ("abc",)), "abc")
    with pytest.raises(UserError, match=r"hardware.devices=2: this process takes itself.* srun"):
        callback.on_fit_start(trainer(*found), None)


def test_processes_with_other_inputs_are_refused():
    callback = SameRun(Others(0, 2, ("xyz",)), "abc")
    with pytest.raises(UserError, match=r"different inputs.*stage.policy=DIR"):
        callback.on_fit_start(trainer(0, 2), None)
