"""DPO against its formula, row by row in plain transformers."""

import math

import pytest
import torch
from torch.testing import assert_close

from hydralign.stages.dpo import DPO, DPOSettings

from .test_gradients import gradients, row_logprobs

BETA = 0.5


def log_ratio(stage, prompt, response):
    """Of a whole response, policy to reference."""
    with torch.no_grad():
        reference = row_logprobs(stage.reference, prompt, response).sum()
    return row_logprobs(stage.policy, prompt, response).sum() - reference


def moved(stage):
    """The stage with its policy moved away from the reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in stage.policy.trained_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return stage


def softplus(x):
    return (1 + x.exp()).log()


LOSSES = {
    ("sigmoid", 0.0): lambda m: softplus(-BETA * m),
    ("sigmoid", 0.2): lambda m: 0.8 * softplus(-BETA * m) + 0.2 * softplus(BETA * m),
    ("robust", 0.2): lambda m: (0.8 * softplus(-BETA * m) - 0.2 * softplus(BETA * m)) / 0.6,
    ("ipo", 0.0): lambda m: (m - 1 / (2 * BETA)) ** 2,
    ("hinge", 0.0): lambda m: (1 - BETA * m).clamp(min=0),
}


def by_hand(stage, examples, loss):
    """Mean over prompts of the mean over their pairs; a tie counts half for each side."""
    total = 0.0
    for row in examples:
        ratios = [log_ratio(stage, row.prompt_ids, response) for response in row.responses]
        margins = [(ratios[p.first] - ratios[p.second], p.target) for p in row.pairs]
        total += sum(t * loss(m) + (1 - t) * loss(-m) for m, t in margins) / len(margins)
    return total / len(examples)


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("kind", LOSSES)
def test_the_gradient_is_that_of_the_formula(make_stage, make_data, fit, kind, size):
    chosen = {"loss": kind[0], "label_smoothing": kind[1], "beta": BETA}
    stage = moved(make_stage(DPO, micro_batch_size=size, **chosen))
    _, steps = fit(stage, make_data(stage))
    fresh = moved(make_stage(DPO, **chosen))
    examples = make_data(fresh).train_examples
    assert any(pair.target == 0.5 for row in examples for pair in row.pairs)
    expected = gradients(by_hand(fresh, examples, LOSSES[kind]), fresh.policy)
    for got, wanted in zip(steps.of(0)[0], expected, strict=True):
        if wanted is not None:
            assert_close(got, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_only_a_logistic_loss_without_smoothing_says_how_sure_it_is(make_stage, kind):
    stage = make_stage(DPO, loss=kind[0], label_smoothing=kind[1], beta=BETA)
    assert stage.outcomes().log_odds == (1.0 if kind == ("sigmoid", 0.0) else None)


def test_at_the_start_nothing_is_preferred(make_stage, make_data, fit):
    stage = make_stage(DPO)
    memory, _ = fit(stage, make_data(stage))
    assert memory.series("dpo/loss") == pytest.approx([math.log(2)], rel=1e-5)
    assert memory.series("dpo/margin") == pytest.approx([0.0], abs=1e-5)
    assert memory.series("dpo/accuracy") == [0.5]  # equal scores are one half


def test_separable_comparisons_are_learned_and_figures_are_those_of_the_test_split(
    make_stage, make_data, fit
):
    stage = make_stage(DPO, steps=30)
    data = make_data(stage)
    memory, _ = fit(stage, data, test=True)
    assert memory.series("dpo/accuracy")[-1] > 0.9
    rewards, right = [], []
    for row in data.test_examples:
        with torch.no_grad():
            ratios = [BETA * log_ratio(stage, row.prompt_ids, r).item() for r in row.responses]
        decided = [p for p in row.pairs if p.target == 1]
        rewards += [(ratios[p.first], ratios[p.second]) for p in decided]
        right += [ratios[p.first] > ratios[p.second] for p in decided]
    figures = stage.figures
    assert figures["dpo/pairs"] == len(right)
    assert figures["dpo/pair_accuracy"] == pytest.approx(sum(right) / len(right), rel=1e-6)
    assert figures["dpo/pair_accuracy_low"] <= figures["dpo/pair_accuracy"]
    chosen, rejected = (torch.tensor(side).mean().item() for side in zip(*rewards, strict=True))
    assert figures["dpo/chosen_reward"] == pytest.approx(chosen, rel=1e-3)
    assert figures["dpo/rejected_reward"] == pytest.approx(rejected, rel=1e-3)
    assert figures["dpo/margin"] == pytest.approx(chosen - rejected, rel=1e-3)


def test_the_reference_stays_where_it_was(make_stage, make_data, fit):
    stage, untouched = make_stage(DPO, steps=3), make_stage(DPO)
    fit(stage, make_data(stage))
    row = make_data(stage).train_examples[0]
    said = [row_logprobs(s.reference, row.prompt_ids, row.responses[0]) for s in (stage, untouched)]
    assert torch.equal(*said)
    assert log_ratio(stage, row.prompt_ids, row.responses[0]).abs() > 1e-3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": "sigmoidal"}, "Choose one of sigmoid, ipo, hinge, robust"),
        ({"beta": 0.0}, "beta=0.0 must be above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5 must be"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "loss=ipo knows no label_smoothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed, message):
    given = {
        **{"policy": None, "loss": "sigmoid", "beta": 0.1, "label_smoothing": 0.0},
        **{"learning_rate": 1e-3, "steps": 1, "batch_size": 1, "schedule": "constant"},
        **{"warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0},
    }
    with pytest.raises(ValueError, match=message):
        DPOSettings(**given | changed)
