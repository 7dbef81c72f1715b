"""Cut distributions by hand, and transformers' own warpers beside them."""

import pytest
import torch
from torch.testing import assert_close
from transformers import TopKLogitsWarper, TopPLogitsWarper

from hydralign.errors import UserError
from hydralign.rollout.decoding import GREEDY, Decoding, keep_top_k, keep_top_p

PROBS = torch.tensor([[0.1, 0.4, 0.2, 0.0, 0.3], [0.0, 0.05, 0.9, 0.05, 0.0]])


def test_the_nucleus_by_hand():
    # Sorted .4 .3 .2 .1: the sum reaches .65 with the second; .9 with the first.
    left = torch.tensor([[0.0, 4 / 7, 0.0, 0.0, 3 / 7], [0.0, 0.0, 1.0, 0.0, 0.0]])
    assert_close(keep_top_p(PROBS, 0.65), left)
    left = torch.tensor([[0.0, 4 / 9, 2 / 9, 0.0, 3 / 9], [0.0, 0.0, 1.0, 0.0, 0.0]])
    assert_close(keep_top_p(PROBS, 0.75), left)
    assert_close(keep_top_p(PROBS, 1e-12), torch.eye(5)[[1, 2]])
    assert_close(keep_top_p(PROBS, 0.999999), PROBS)


def test_the_likeliest_by_hand():
    left = torch.tensor([[0.0, 4 / 7, 0.0, 0.0, 3 / 7]])
    assert_close(keep_top_k(PROBS[:1], 2), left)
    assert_close(keep_top_k(PROBS, 1), torch.eye(5)[[1, 2]])
    assert_close(keep_top_k(PROBS, 99), PROBS)


@pytest.mark.parametrize("seed", range(3))
def test_cuts_are_those_of_transformers(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, 23, generator=generator)
    probs = logits.softmax(-1)
    for p in (0.05, 0.5, 0.9):
        expected = TopPLogitsWarper(p)(None, logits).softmax(-1)
        assert_close(keep_top_p(probs, p), expected)
    for k in (1, 4, 23):
        assert_close(keep_top_k(probs, k), TopKLogitsWarper(k)(None, logits).softmax(-1))


def test_draws_come_from_what_is_left_after_the_temperature():
    # At temperature 2 the odds 16 : 9 : 4 : 1 become 4 : 3 : 2 : 1; the first three add up to .9.
    logits = torch.tensor([[16.0, 1.0, 4.0, 9.0]]).log()
    uniform = (torch.arange(9000, dtype=torch.float64) / 9000).unsqueeze(1)
    drawn = Decoding(2.0, top_p=0.85)(logits.expand(9000, 4), uniform).flatten()
    counts = drawn.bincount(minlength=4).tolist()
    assert_close(counts, [4000, 0, 2000, 3000], rtol=0, atol=2)
    drawn = Decoding(2.0, top_k=2)(logits.expand(9000, 4), uniform).flatten()
    assert_close(drawn.bincount(minlength=4).tolist(), [5143, 0, 0, 3857], rtol=0, atol=2)


def test_the_likeliest_alone_is_greedy():
    logits = torch.randn(7, 13, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for decoding in (GREEDY, Decoding(top_k=1), Decoding(temperature=1.7, top_p=1e-9)):
        assert decoding(logits, uniform).flatten().tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": -0.1}, "temperature -0.1: at least 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0.0}, "top-p 0: above 0"),
        ({"top_p": 1.1}, "top-p 1.1"),
        ({"top_k": 0}, "top-k 0: at least 1"),
    ],
)
def test_values_out_of_bounds_are_told(wrong, said):
    with pytest.raises(UserError, match=said):
        Decoding(**wrong)
