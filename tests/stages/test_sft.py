import math
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from hydralign.stages.sft import SFT

LEARNS = {"steps": 30, "learning_rate": 1e-2}


def nll(stage, examples):
    """Mean over all tokens, each row by itself in plain transformers."""
    stage.policy.network.prepare()
    losses = []
    for row in examples:
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        labels = ids.clone()
        labels[:, : len(row.prompt_ids)] = -100
        with torch.no_grad():
            mean = stage.policy.network.language_model(input_ids=ids, labels=labels).loss
        losses += [mean.item()] * len(row.response_ids)
    return sum(losses) / len(losses)


def unigram(train, held_out):
    counts = Counter(token for row in train for token in row.response_ids)
    total = counts.total() + 47
    tokens = [token for row in held_out for token in row.response_ids]
    return -sum(math.log((counts[token] + 1) / total) for token in tokens) / len(tokens)


def test_the_loss_falls(make_stage, make_data, fit):
    stage = make_stage(SFT, **LEARNS)
    data = make_data(stage)
    start = nll(stage, data.train_examples)
    memory, gradients = fit(stage, data)
    assert len(gradients.steps) == stage.trainer.global_step == 30
    assert start > 3
    assert nll(stage, data.train_examples) < 1
    assert len(memory.series("policy/loss")) == 30


def test_the_cut_into_micro_batches_changes_no_step(make_stage, make_data, fit):
    stage, whole = (make_stage(SFT, steps=3, micro_batch_size=size) for size in (3, 8))
    fit(stage, make_data(stage))
    fit(whole, make_data(whole))
    weights = [role.policy.trained_parameters() for role in (stage, whole)]
    assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [2, 8])
def test_the_logged_loss_is_that_of_the_whole_step(make_stage, make_data, fit, size):
    stage = make_stage(SFT, micro_batch_size=size)
    data = make_data(stage)
    expected = nll(stage, data.train_examples)
    memory, _ = fit(stage, data)
    assert_close(memory.series("policy/loss"), [expected], rtol=1e-4, atol=0)


def test_figures_are_means_over_tokens_of_held_out_splits(make_stage, make_data, fit):
    stage = make_stage(SFT, steps=2)
    data = make_data(stage)
    fit(stage, data, test=True)
    figures = stage.figures
    # Five and four examples in batches of three: a mean of batch means would differ.
    assert_close(figures["sft/val_nll"], nll(stage, data.validation_examples), rtol=1e-5, atol=0)
    assert_close(figures["sft/test_nll"], nll(stage, data.test_examples), rtol=1e-5, atol=0)


def test_the_bar_beside_the_held_out_loss_is_of_the_same_split(make_stage, make_data, fit):
    stage = make_stage(SFT)
    data = make_data(stage)
    fit(stage, data, test=True)
    expected = unigram(data.train_examples, data.validation_examples)
    assert_close(stage.figures["sft/unigram_nll"], expected, rtol=1e-6, atol=0)


def test_the_schedule_steps_once_per_optimizer_step(make_stage, make_data, fit):
    stage = make_stage(SFT, steps=3, schedule="linear", micro_batch_size=2)
    fit(stage, make_data(stage))
    assert stage.trainer.optimizers[0].param_groups[0]["lr"] == 0.0
