"""What is frozen is compared before and after."""

import pytest
import torch

from hydralign.callbacks import frozen
from hydralign.callbacks.frozen import FrozenWeights, bits_sum
from hydralign.errors import BadNumbers


def stage():
    found = torch.nn.ModuleDict({"base": torch.nn.Linear(3, 3), "policy": torch.nn.Linear(3, 3)})
    found["base"].requires_grad_(False)
    return found


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (torch.uint8, [1, 255, 0], 256),
        (torch.int8, [-1, 1], 256),  # as bytes: 255 and 1
        (torch.bfloat16, [1.0, -0.0], 0x3F80 - 0x8000),
        (torch.float32, [1.0], 0x3F800000),
    ],
)
def test_the_sum_is_of_the_bits(dtype, values, expected):
    assert bits_sum(torch.tensor(values, dtype=dtype)) == expected


def test_training_what_trains_is_no_change():
    callback, roles = FrozenWeights(), stage()
    callback.on_fit_start(None, roles)
    with torch.no_grad():
        roles["policy"].weight += 1
    callback.on_train_end(None, roles)


def test_a_large_tensor_is_added_up_in_pieces(monkeypatch):
    """torch would make a copy of 8 bytes a number."""
    sizes, add_up = [], torch.Tensor.sum

    def noting(tensor, **options):
        sizes.append(len(tensor))
        return add_up(tensor, **options)

    monkeypatch.setattr(frozen, "PIECE", 400)
    monkeypatch.setattr(torch.Tensor, "sum", noting)
    assert bits_sum(torch.arange(1000, dtype=torch.int16)) == 499_500
    assert sizes == [400, 400, 200]


def test_the_least_change_of_what_is_frozen_is_found():
    callback, roles = FrozenWeights(), stage()
    callback.on_fit_start(None, roles)
    with torch.no_grad():
        weight = roles["base"].weight
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(9.0))
    with pytest.raises(BadNumbers, match=r"1 frozen weights have changed in training.*base.weight"):
        callback.on_train_end(None, roles)


def test_no_checkpoint_is_written_over_a_good_one_when_it_has_changed():
    callback, roles = FrozenWeights(), stage()
    callback.on_fit_start(None, roles)
    callback.on_save_checkpoint(None, roles, {})
    with torch.no_grad():
        roles["base"].bias += 1
    with pytest.raises(BadNumbers):
        callback.on_save_checkpoint(None, roles, {})
