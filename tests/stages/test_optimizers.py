"""The kinds of Adam, and the schedule."""

import pytest
import torch
from torch import nn

from hydralign.stages.optimizers import make_optimizer

RATES = {"learning_rate": 0.1, "schedule": "linear", "warmup_steps": 0, "steps": 4}


def stepped(kind):
    """A parameter of 8,192 numbers (8 bits begin at 4,096) after one step against its sign."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(64, 128, generator=generator))
    optimizer, _ = make_optimizer([parameter], kind, **RATES)
    before = parameter.detach().clone()
    parameter.grad = parameter.detach().clone()
    optimizer.step()
    return parameter.detach() - before, before, optimizer.state[parameter]


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_the_first_step_of_adam_is_the_rate_against_the_sign_of_the_gradient(kind):
    moved, before, _ = stepped(kind)
    large = before.abs() > 0.01
    torch.testing.assert_close(moved[large], -0.1 * before.sign()[large], rtol=1e-3, atol=1e-3)


def test_eight_bits_are_what_adams_averages_take():
    _, _, state = stepped("adamw_8bit")
    assert {state["state1"].dtype, state["state2"].dtype} == {torch.uint8}
    _, _, state = stepped("adamw")
    assert {state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.float32}
