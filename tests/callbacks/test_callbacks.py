import types
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from hydralign.callbacks.progress import StageProgressBar
from hydralign.callbacks.samples import SampleTable
from hydralign.callbacks.vitals import Vitals
from hydralign.data.collate import collate_demonstrations, collate_prompts
from hydralign.data.examples import DemonstrationExample, PromptExample
from hydralign.data.loaders import Step
from hydralign.micro_batches import MicroBatches
from hydralign.rollout.sampling import Sampling

EXAMPLES = [PromptExample([1, 20], "a|b", None), PromptExample([1], "c\nd", None)]


class Stage(L.LightningModule):
    """Counts upwards; its gradient is (3, 4) in every micro-batch."""

    product = "reward_model"

    def __init__(self, policy, scorer=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.policy = policy
        self.sampling = Sampling(1.0, 5, MicroBatches(9))
        if scorer:
            self.scorer = scorer

    def training_step(self, batch, index):
        self.log("policy/loss", float(index), prog_bar=True)
        return self.weight @ torch.tensor([3.0, 4.0])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD([self.weight, self.unused], lr=0.1)
        halve = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halve, "interval": "step"}}


def fit(stage, batches, folder, *callbacks, bar=False):
    logger = TensorBoardLogger(folder, name="", version="")
    texts, scalars = [], []
    logger.experiment.add_text = lambda *args: texts.append(args)
    keep = logger.log_metrics
    logger.log_metrics = lambda metrics, step: (scalars.append(metrics), keep(metrics, step))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
    )
    trainer.fit(stage, batches)
    return texts, scalars


class Batches:
    """A loader of one batch again and again."""

    def __init__(self, batch, number):
        self.batch, self.number = batch, number

    def __len__(self):
        return self.number

    def __iter__(self):
        return iter([self.batch] * self.number)


def table(codec, every):
    prompts = collate_prompts(EXAMPLES, EXAMPLES, pad_id=0)
    return SampleTable(prompts, codec, every=every, seed=3)


@pytest.mark.parametrize(("batches", "steps"), [(6, [0, 2, 4, 6]), (5, [0, 2, 4, 5])])
def test_tables_come_at_the_start_every_so_many_steps_and_at_the_end(
    make_toys, tmp_path, batches, steps
):
    toys = make_toys("own")
    stage = Stage(toys.role("policy"), scorer=lambda responses: torch.tensor([0.5, -1.25]))
    texts, _ = fit(stage, range(batches), tmp_path, table(toys.codec, 2))
    assert [step for _, _, step in texts] == steps
    assert {tag for tag, _, _ in texts} == {"rollout/samples"}
    assert len({text for _, text, _ in texts}) == 1  # the same draws, and nothing was learned
    header, _, first, second = texts[0][1].split("\n")
    assert header == "| prompt | response | score |"
    assert first.startswith("| a\\|b | ")
    assert first.endswith(" | +0.50 |")
    assert second.startswith("| c<br>d | ")
    assert second.endswith(" | -1.25 |")


def test_a_stage_without_a_scorer_leaves_the_score_empty(make_toys, tmp_path):
    toys = make_toys("own")
    texts, _ = fit(Stage(toys.role("policy")), range(1), tmp_path, table(toys.codec, 9))
    assert all(row.endswith(" |  |") for row in texts[0][1].split("\n")[2:])


def test_a_table_draws_nothing_from_the_global_generator(make_toys, tmp_path):
    toys = make_toys("own")
    state = torch.get_rng_state()
    fit(Stage(toys.role("policy")), range(3), tmp_path, table(toys.codec, 1))
    assert torch.equal(torch.get_rng_state(), state)


def demonstrations():
    """Two of five and two tokens."""
    examples = [DemonstrationExample([1, 9], [5, 6, 2]), DemonstrationExample([1], [2])]
    return Step(examples, examples, partial(collate_demonstrations, pad_id=0))


def logged(scalars, name):
    return [metrics[name] for metrics in scalars if name in metrics]


def test_speed_counts_real_tokens_and_starts_anew(make_toys, tmp_path, monkeypatch):
    ticks = iter([0, 2, 10, 11, 20])
    clock = types.SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("hydralign.callbacks.vitals.time", clock)
    stage = Stage(make_toys("own").role("policy"))
    _, scalars = fit(stage, Batches(demonstrations(), 4), tmp_path, Vitals(every=2))
    # Two batches of 5 + 2 tokens from second 0 to 2, and two more from 10 to 11.
    assert set(logged(scalars, "perf/tokens_per_second")) == {7.0, 14.0}
    assert min(logged(scalars, "perf/peak_memory_gb")) > 0.05


def test_stages_that_sample_log_their_own_vitals(make_toys):
    Vitals(every=1).on_train_batch_end(types.SimpleNamespace(), None, None, range(3), 0)


def test_the_bar_bears_the_stages_name_and_short_figures(make_toys, tmp_path, capfd):
    bar = StageProgressBar("sft", 40)
    assert bar.refresh_rate == 2  # without a terminal it is drawn twenty times in all
    fit(Stage(make_toys("own").role("policy")), range(40), tmp_path, bar, bar=True)
    out, err = capfd.readouterr()
    shown = [line for line in (out + err).split("\r") if "loss=" in line][-1]
    assert shown.startswith("sft: 100%")
    assert "loss=39.0" in shown
    assert "policy/loss" not in shown
    assert "v_num" not in shown
