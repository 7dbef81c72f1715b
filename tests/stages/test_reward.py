import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from hydralign.rollout.sampling import Sampling, sample_responses
from hydralign.stages.reward import Reward

LEARNS = {"steps": 30, "learning_rate": 1e-2}


def accuracy(stage, examples):
    """Share of the pairs, ties left out, that are ranked as told; each row scored by itself."""
    stage.reward_model.network.prepare()
    transformer = stage.reward_model.network.language_model.base_model
    right = []
    for row in examples:
        ids = [torch.tensor([[*row.prompt_ids, *response]]) for response in row.responses]
        with torch.no_grad():
            states = [transformer(input_ids=i).last_hidden_state[0, -1] for i in ids]
        scores = [(state @ stage.reward_model.head.weight[0]).item() for state in states]
        right += [scores[p.first] > scores[p.second] for p in row.pairs if p.target == 1]
    return sum(right) / len(right), len(right)


def own_scores(stage):
    """Scores of what the SFT policy says to the side prompts, drawn as the stage draws."""
    context = stage.context
    generator = torch.Generator().manual_seed(context.seed)
    sampling = Sampling(1.0, context.max_response_tokens, context.generation)
    with torch.no_grad():
        return torch.cat(
            [
                stage.reward_model.scores(
                    sample_responses(
                        stage.policy, prompts, context.codec, sampling, generator
                    ).sequences
                )
                for prompts in context.side_prompts
            ]
        )


def test_separable_comparisons_are_learned(make_stage, make_data, fit):
    stage = make_stage(Reward, **LEARNS)
    data = make_data(stage)
    assert accuracy(stage, data.train_examples)[0] < 0.9
    memory, gradients = fit(stage, data)
    assert len(gradients.steps) == 30
    assert accuracy(stage, data.train_examples)[0] > 0.9
    loss = memory.series("reward/loss")
    assert sum(loss[-3:]) / 3 < 0.5 * sum(loss[:3]) / 3


def test_after_training_the_policys_own_responses_score_0_with_deviation_1(
    make_stage, make_data, fit
):
    stage = make_stage(Reward, steps=4)
    fit(stage, make_data(stage))
    scores = own_scores(stage)
    assert len(scores) == 6
    assert_close(scores.mean().item(), 0.0, rtol=0, atol=1e-5)
    assert_close(scores.std(correction=0).item(), 1.0, rtol=1e-4, atol=0)
    head = stage.reward_model.head
    assert stage.figures["reward/normalisation_mean"] == head.mean.item() != 0.0
    assert stage.figures["reward/normalisation_std"] == head.std.item() != 1.0


def test_figures_are_of_the_test_split_with_an_interval(make_stage, make_data, fit):
    stage = make_stage(Reward, **LEARNS)
    data = make_data(stage)
    fit(stage, data, test=True)
    figures = stage.figures
    expected, pairs = accuracy(stage, data.test_examples)
    assert figures["reward/pairs"] == pairs
    assert_close(figures["reward/pair_accuracy"], expected, rtol=1e-6, atol=0)
    low, high = figures["reward/pair_accuracy_low"], figures["reward/pair_accuracy_high"]
    assert low <= figures["reward/pair_accuracy"] <= high
    held_out = accuracy(stage, data.validation_examples)[0]
    assert_close(figures["reward/val_accuracy"], held_out, rtol=1e-6, atol=0)


def test_the_cut_into_micro_batches_changes_no_step(make_stage, make_data, fit):
    stage, other = (make_stage(Reward, steps=3, micro_batch_size=size) for size in (3, 8))
    fit(stage, make_data(stage))
    fit(other, make_data(other))
    weights = [one.reward_model.trained_parameters() for one in (stage, other)]
    assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_the_logged_figures_are_those_of_the_whole_step(make_stage, make_data, fit):
    expected = fit_once(make_stage, make_data, fit, 8)
    assert_close(fit_once(make_stage, make_data, fit, 2), expected, rtol=1e-4, atol=1e-6)
    stage = make_stage(Reward)
    assert_close(expected[1], accuracy(stage, make_data(stage).train_examples)[0])


def fit_once(make_stage, make_data, fit, size):
    """Loss and accuracy that one step logs."""
    stage = make_stage(Reward, micro_batch_size=size)
    memory, _ = fit(stage, make_data(stage))
    return [memory.series(f"reward/{name}")[0] for name in ("loss", "accuracy")]


@pytest.mark.parametrize("pick", [min, max])
def test_a_micro_batch_that_holds_only_ties_is_no_trouble(make_stage, make_data, fit, pick):
    stage = make_stage(Reward, micro_batch_size=1)
    examples = list(make_data(stage).train_examples)
    place = pick(range(8), key=lambda i: examples[i].length)  # a step's last and first
    tied = [dataclasses.replace(pair, target=0.5) for pair in examples[place].pairs]
    examples[place] = dataclasses.replace(examples[place], pairs=tied)
    memory, gradients = fit(stage, make_data(stage, examples=examples))
    assert all(g.isfinite().all() for g in gradients.of(0)[0] if g is not None)
    assert not math.isnan(memory.series("reward/accuracy")[0])
