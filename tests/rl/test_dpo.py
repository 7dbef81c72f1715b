from functools import partial

import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.preference import dpo_loss, dpo_margin

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-8, atol=1e-9)
MARGIN = f64([0.0, 10.0, 20.0])
SIGMOID = [0.6931471806, 0.3132616875, 0.1269280110]


def test_margin_of_the_torchtune_vectors():
    chosen, rejected = f64([-0.5, -10.0, -1.0]), f64([-0.1, -30.0, -21.0])
    ref_chosen, ref_rejected = f64([-0.5, -10.1, -0.1]), f64([-0.1, -20.1, -0.1])
    margin = dpo_margin(chosen, rejected, ref_chosen, ref_rejected)
    close(margin, MARGIN)
    swapped = dpo_margin(rejected, chosen, ref_rejected, ref_chosen)
    close(swapped, -MARGIN)


def test_margin_gradient_raises_the_chosen_and_lowers_the_rejected():
    sides = [f64([-1.0, -2.0, -3.0]).requires_grad_() for _ in range(4)]
    dpo_margin(*sides).sum().backward()
    assert [side.grad.tolist() for side in sides] == [[1.0] * 3, [-1.0] * 3, [-1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, SIGMOID),
        ({"kind": "sigmoid"}, SIGMOID),
        ({"label_smoothing": 0.1}, [0.6931471806, 0.4132616875, 0.3269280110]),
        # (.9 * .31326169 - .1 * 1.31326169) / .8 = .18826169
        ({"kind": "robust", "label_smoothing": 0.1}, [0.6931471806, 0.1882616875, -0.1230719890]),
        ({"kind": "robust"}, SIGMOID),
        ({"kind": "ipo"}, [25.0, 25.0, 225.0]),
        ({"kind": "hinge"}, [1.0, 0.0, 0.0]),
    ],
)
def test_losses_of_the_torchtune_vectors(options, expected):
    close(dpo_loss(MARGIN, beta=0.1, **options), f64(expected))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # each at margins 0, 10, 20 and beta .1; s(x) is the sigmoid, s(-1) = .2689414214
        ({}, [-0.05, -0.02689414214, -0.01192029220]),  # -beta s(-beta margin)
        # -.9 beta s(-x) + .1 beta s(x)
        ({"label_smoothing": 0.1}, [-0.04, -0.01689414214, -0.00192029220]),
        # (-.9 beta s(-x) - .1 beta s(x)) / .8
        ({"kind": "robust", "label_smoothing": 0.1}, [-0.0625, -0.039394142137, -0.024420292202]),
        ({"kind": "ipo"}, [-10.0, 10.0, 30.0]),  # 2 (margin - 5)
        ({"kind": "hinge"}, [-0.1, None, 0.0]),  # at the kink either side will do
    ],
)
def test_gradients_wrt_the_margin(options, expected):
    margin = MARGIN.clone().requires_grad_()
    dpo_loss(margin, beta=0.1, **options).sum().backward()
    for slope, by_hand in zip(margin.grad.tolist(), expected, strict=True):
        assert by_hand is None or slope == pytest.approx(by_hand, rel=1e-7, abs=1e-12)


def test_loss_at_the_reference_is_log_two_for_every_beta():
    for beta in (0.01, 0.1, 5.0):
        close(dpo_loss(torch.zeros(3).double(), beta=beta), f64([0.6931471806] * 3))


@pytest.mark.parametrize("kind", ["sigmoid", "robust", "hinge"])
def test_huge_margins_stay_finite(kind):
    margin = f64([-1e5, 1e5]).requires_grad_()
    loss = dpo_loss(margin, beta=0.1, kind=kind)
    close(loss.detach(), f64([1e4 + (kind == "hinge"), 0.0]))
    loss.sum().backward()
    assert torch.isfinite(margin.grad).all()
