from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hydralign.data.collate import collate_demonstrations
from hydralign.data.examples import ComparisonExample, DemonstrationExample
from hydralign.data.loaders import EvaluationLoader, Step, TrainLoader
from hydralign.data.module import RecordDataModule
from hydralign.data.splits import Splits
from hydralign.errors import UserError
from hydralign.ranks import Ranks


def examples(n):
    """Demonstration i has prompt token i and i % 4 + 1 response tokens."""
    return [DemonstrationExample([i], [9] * (i % 4 + 1)) for i in range(n)]


def ids(micro_batch, step):
    return [e.prompt_ids[0] for e in micro_batch], sum(len(e.response_ids) for e in step)


def loader(n=11, **changed):
    """A run of 5 steps of 4 records; 11 records make passes of 2 steps."""
    sizes = {"steps": 5, "batch_size": 4, "seed": 3} | changed
    return TrainLoader(examples(n), ids, **sizes)


def test_a_run_is_whole_steps_of_alike_lengths():
    train = loader()
    steps = list(train)
    assert (train.steps_per_epoch, len(train), len(steps)) == (2, 5, 5)
    for start in (0, 2):  # each pass of two steps
        seen = [i for rows, _ in steps[start : start + 2] for i in rows]
        assert len(seen) == len(set(seen)) == 8  # three of the eleven sit this pass out
    for rows, counted in steps:
        lengths = [i % 4 + 1 for i in rows]
        assert lengths == sorted(lengths, reverse=True)
        assert counted == sum(lengths)


@pytest.mark.parametrize(("size", "expected"), [(2, [2, 2, 1]), (3, [3, 2]), (9, [5])])
def test_a_step_can_be_cut_anyhow_and_each_piece_carries_its_denominator(size, expected):
    mine, all_of_it = examples(5), examples(7)
    step = Step(mine, all_of_it, partial(collate_demonstrations, pad_id=0))
    assert step.tokens == 5 + (1 + 2 + 3 + 4 + 1)
    batches = list(step.to("meta").micro_batches(size))
    assert [len(batch.sequences) for batch in batches] == expected
    assert {batch.response_tokens for batch in batches} == {1 + 2 + 3 + 4 + 1 + 2 + 3}
    assert {batch.sequences.sequence_ids.device.type for batch in batches} == {"meta"}
    first = [i for batch in step.micro_batches(size) for i in batch.sequences.sequence_ids[:, 0]]
    assert first == [0, 1, 2, 3, 4]


def test_all_rows_of_a_comparison_are_counted():
    step = Step([ComparisonExample([1, 2], [[3], [4, 5, 6]], [])], [], ids)
    assert step.tokens == (2 + 1) + (2 + 3)


def test_processes_part_each_step_among_them():
    whole = list(loader())
    parts = [list(loader(ranks=Ranks(index, 2))) for index in range(2)]
    for (rows, counted), (even, its), (odd, others) in zip(whole, *parts, strict=True):
        assert (rows[::2], rows[1::2]) == (even, odd)
        assert counted == its == others


def test_passes_differ_and_runs_of_one_seed_agree():
    steps = list(loader())
    assert steps[:2] != steps[2:4]
    assert list(loader()) == steps
    assert list(loader(seed=5)) != steps
    assert list(loader(steps=9))[:5] == steps  # a longer run begins alike


def test_iterating_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(loader())
    list(EvaluationLoader(examples(5), ids, batch_size=2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("taken", [1, 2, 3, 4])
def test_a_restored_loader_goes_on_with_the_next_step(taken):
    whole, cut, resumed = list(loader()), loader(), loader()
    for _ in zip(range(taken), cut, strict=False):
        pass
    resumed.load_state_dict(cut.state_dict())
    assert list(resumed) == whole[taken:]


def test_a_finished_run_can_be_repeated_or_made_longer():
    train = loader()
    assert list(train) == list(train)
    longer = loader(steps=7)
    longer.load_state_dict(train.state_dict())
    assert list(longer) == list(loader(steps=7))[5:]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"ranks": Ranks(0, 3)}, "batch_size=4 must be a multiple of the number of processes, 3"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"batch_size": 12}, "11 training examples do not fill one step of batch_size=12"),
    ],
)
def test_impossible_sizes_are_refused(sizes, words):
    with pytest.raises(UserError, match=words):
        loader(**sizes)


def test_evaluation_is_in_order_and_drops_nothing():
    held_out = EvaluationLoader(examples(5), ids, batch_size=2)
    assert len(held_out) == 3
    # Response lengths are 1, 2, 3, 4, 1, and each batch counts its own.
    assert list(held_out) == [([0, 1], 3), ([2, 3], 7), ([4], 1)]


class Recorder(L.LightningModule):
    """Notes what the Trainer hands it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.held_out = [], []

    def training_step(self, step, _):
        for batch in step.micro_batches(2):
            ids = batch.sequences.sequence_ids[:, 0].tolist()
            self.seen.append((ids, batch.response_tokens))
        return self.weight.sum()

    def validation_step(self, batch, _):
        self.held_out.append(batch.response_tokens)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, ckpt_path=None):
    def collate(batch, step):
        return collate_demonstrations(batch, step, pad_id=0)

    data = RecordDataModule(
        Splits(examples(11), examples(3), examples(2)),
        collate,
        steps=5,
        batch_size=4,
        eval_batch_size=2,
        seed=3,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=0.4,
        callbacks=[ModelCheckpoint(folder, "step3", every_n_train_steps=3)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    return model, trainer, data


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_trainer_epoch_is_the_run_and_resumes_in_its_midst(tmp_path):
    whole, trainer, data = fit(tmp_path / "whole")
    assert (trainer.global_step, len(whole.seen)) == (5, 10)
    assert data.steps_per_epoch == 2
    # Response lengths 1 + 2, then 3; looked at after steps 2 and 4 of 5.
    assert whole.held_out == [3, 3] * 2
    resumed, trainer, _ = fit(tmp_path / "resumed", ckpt_path=tmp_path / "whole" / "step3.ckpt")
    assert trainer.global_step == 5
    assert resumed.seen == whole.seen[6:]


def test_the_module_serves_each_split():
    splits = Splits(examples(11), examples(3), examples(2))
    data = RecordDataModule(splits, ids, steps=1, batch_size=4, eval_batch_size=4, seed=0)
    served = data.train_examples, data.validation_examples, data.test_examples
    assert [len(part) for part in served] == [11, 3, 2]
    assert list(data.val_dataloader()) == [([0, 1, 2], 6)]
    assert list(data.test_dataloader()) == [([0, 1], 3)]
