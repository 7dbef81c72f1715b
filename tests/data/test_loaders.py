import lightning as L
import pytest
import torch

from hydralign.data.collate import collate_demonstrations
from hydralign.data.examples import DemonstrationExample
from hydralign.data.loaders import EvaluationLoader, TrainLoader
from hydralign.data.module import RecordDataModule
from hydralign.data.splits import Splits
from hydralign.errors import UserError


def examples(n):
    """Demonstration i has prompt token i and i % 4 + 1 response tokens."""
    return [DemonstrationExample([i], [9] * (i % 4 + 1)) for i in range(n)]


def ids(micro_batch, step):
    return [e.prompt_ids[0] for e in micro_batch], sum(len(e.response_ids) for e in step)


def loader(n=11, batch_size=4, micro_batch_size=2, seed=3):
    return TrainLoader(
        examples(n), ids, batch_size=batch_size, micro_batch_size=micro_batch_size, seed=seed
    )


def test_an_epoch_is_whole_steps_of_whole_micro_batches():
    train = loader()
    batches = list(train)
    assert (train.steps_per_epoch, len(train), len(batches)) == (2, 4, 4)
    seen = [i for batch, _ in batches for i in batch]
    assert len(set(seen)) == 8  # three of the eleven sit this epoch out


def test_the_micro_batches_of_a_step_carry_its_denominator_and_share_lengths():
    for first, second in zip(*[iter(loader())] * 2, strict=True):
        rows = first[0] + second[0]
        lengths = [i % 4 + 1 for i in rows]
        assert lengths == sorted(lengths, reverse=True)
        assert first[1] == second[1] == sum(lengths)


def test_the_cut_into_micro_batches_changes_no_step():
    wide, narrow = list(loader(micro_batch_size=4)), list(loader(micro_batch_size=1))
    for number, (rows, denominator) in enumerate(wide):
        parts = narrow[4 * number : 4 * number + 4]
        assert rows == [i for part, _ in parts for i in part]
        assert {own for _, own in parts} == {denominator}


def test_epochs_differ_and_runs_of_one_seed_agree():
    train, again, other = loader(), loader(), loader(seed=4)
    epochs = [list(train), list(train)]
    assert epochs[0] != epochs[1]
    assert epochs == [list(again), list(again)]
    assert list(other) != epochs[0]


def test_iterating_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(loader())
    list(EvaluationLoader(examples(5), ids, batch_size=2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("taken", [1, 3, 4, 5])
def test_a_restored_loader_goes_on_with_the_next_micro_batch(taken):
    def endless(train):
        while True:
            yield from train

    whole, cut, resumed = loader(), loader(), loader()
    expected = [batch for batch, _ in zip(endless(whole), range(9), strict=False)]
    for _ in zip(range(taken), endless(cut), strict=False):
        pass
    resumed.load_state_dict(cut.state_dict())
    rest = [batch for _, batch in zip(range(9 - taken), endless(resumed), strict=False)]
    assert rest == expected[taken:]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"batch_size": 4, "micro_batch_size": 3}, "batch_size=4 must be a multiple of micro_ba"),
        ({"batch_size": 4, "micro_batch_size": 0}, "must be a multiple of micro_batch_size=0"),
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

    def training_step(self, batch, _):
        ids = batch.sequences.sequence_ids[:, 0].tolist()
        self.seen.append((ids, batch.response_tokens))
        return self.weight.sum()

    def validation_step(self, batch, _):
        self.held_out.append(batch.response_tokens)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, max_steps, ckpt_path=None):
    def collate(batch, step):
        return collate_demonstrations(batch, step, pad_id=0)

    data = RecordDataModule(
        Splits(examples(11), examples(3), examples(2)),
        collate,
        batch_size=4,
        micro_batch_size=2,
        seed=3,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        accumulate_grad_batches=data.micro_batches_per_step,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    return model, trainer, data


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_trainer_steps_as_the_module_says_and_resumes_within_an_epoch(tmp_path):
    whole, trainer, data = fit(tmp_path / "whole", 5)
    assert (trainer.global_step, data.steps_per_epoch, len(whole.seen)) == (5, 2, 10)
    assert whole.held_out == [3, 3] * 2  # lengths 1 + 2, then 3, after each whole epoch
    _, trainer, _ = fit(tmp_path / "cut", 3)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    resumed, trainer, _ = fit(tmp_path / "resumed", 5, tmp_path / "cut.ckpt")
    assert trainer.global_step == 5
    assert resumed.seen == whole.seen[6:]
    assert [len(part) for part in data.examples.map(lambda _, x: x).__dict__.values()] == [11, 3, 2]
