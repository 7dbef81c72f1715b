import pytest
import torch
from torch.testing import assert_close

from hydralign.models.heads import ScalarHead


def head_with(weight):
    head = ScalarHead(len(weight))
    head.weight.data.copy_(torch.tensor([weight]))
    return head


def test_weights_are_drawn_with_the_deviation_of_stiennon():
    head = ScalarHead(9999, torch.Generator().manual_seed(1))
    # 1 / sqrt(10000) = .01; of 9999 draws the deviation itself is off by .7 % on average
    assert head.weight.shape == (1, 9999)
    assert_close(head.weight.std().item(), 0.01, rtol=0, atol=0.0003)
    assert_close(head.weight.mean().item(), 0.0, rtol=0, atol=0.0003)


def test_equal_seeds_give_equal_heads_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, second, third = (ScalarHead(5, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, third.weight)
    assert torch.equal(torch.rand(1), expected)


def test_output_is_fp32_whatever_goes_in():
    head = head_with([1.0, 2.0, 0.0])
    states = torch.tensor([[[0.5, 1.0, 9.0]], [[-1.0, 0.25, 9.0]]], dtype=torch.bfloat16)
    assert_close(head(states), torch.tensor([[2.5], [-0.5]]))
    assert head(states).dtype == torch.float32


def test_mixed_precision_does_not_round_the_product():
    head = head_with([1.0, 1e-3])
    states = torch.tensor([[100.0, 1.0], [100.0, 2.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(head(states), torch.tensor([100.001, 100.002]), rtol=1e-7, atol=0)


def test_normalised_scores_have_mean_0_and_biased_deviation_1():
    head = head_with([1.0, 0.0])
    states = torch.tensor([[1.0, 7], [2, 7], [3, 7], [4, 7]])
    head.normalise_on(head(states))
    # mean 2.5, biased variance 1.25
    assert_close((head.mean.item(), head.std.item()), (2.5, 1.25**0.5), rtol=1e-6, atol=0)
    expected = torch.tensor([-1.34164079, -0.44721360, 0.44721360, 1.34164079])
    assert_close(head(states), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("samples", [[5.0, -3.0, 4.0], [100.0, 101.0, 109.0]])
def test_normalising_a_second_time_replaces_the_first(samples):
    head, fresh = head_with([1.0]), head_with([1.0])
    first, second = torch.tensor([[2.0], [8.0], [3.0]]), torch.tensor(samples).unsqueeze(1)
    head.normalise_on(head(first))
    head.normalise_on(head(second))
    fresh.normalise_on(fresh(second))
    assert_close(head(second).mean().item(), 0.0, rtol=0, atol=1e-5)
    assert_close(head(second).std(correction=0).item(), 1.0, rtol=1e-5, atol=0)
    assert_close((head.mean, head.std), (fresh.mean, fresh.std), rtol=1e-5, atol=1e-5)
    once = head.mean.item(), head.std.item()
    head.normalise_on(head(second))  # already normal: nothing moves
    assert_close((head.mean.item(), head.std.item()), once, rtol=1e-5, atol=1e-5)


def test_normalising_keeps_the_order_and_the_ratio_of_differences():
    head = head_with([2.0])
    states = torch.tensor([[0.1], [0.7], [0.3]])
    head.normalise_on(head(states))
    low, high, middle = head(states).tolist()
    assert_close((high - low) / (middle - low), 3.0, rtol=1e-5, atol=0)


def test_equal_scores_stay_finite():
    head = head_with([1.0])
    head.normalise_on(head(torch.ones(3, 1)))
    assert head(torch.ones(3, 1)).tolist() == [0.0, 0.0, 0.0]


def test_normalisation_travels_in_the_state():
    head, other = head_with([1.0]), head_with([1.0])
    head.normalise_on(torch.tensor([1.0, 2.0]))
    other.load_state_dict(head.state_dict())
    assert (other.mean.item(), other.std.item()) == (1.5, 0.5)
    assert [name for name, _ in other.named_parameters()] == ["weight"]
