"""Drift by hand: logits made up, of a vocabulary of two tokens."""

from math import log

import pytest
import torch
from torch.testing import assert_close

from hydralign.data.collate import PromptBatch
from hydralign.export.drift import KL, SCORES, kl_divergence, policy_drift, score_drift
from hydralign.rl.sequences import pad_sequences

# After a prompt of three, two tokens of which the second, 1, is where it stops.
PROMPT, ANSWER, STOP = [0, 0, 0], [0, 1, 0, 0], 1


class Plain:
    """Answers every prompt alike, and gives the same logits everywhere."""

    device = torch.device("meta")  # a device other than that of the prompts

    def __init__(self, logits):
        self.logits = torch.tensor(logits)

    def generate(self, input_ids, attention_mask, do_sample, max_new_tokens):
        assert (do_sample, max_new_tokens) == (False, 4)
        assert input_ids.device == attention_mask.device == self.device
        return torch.tensor([PROMPT + ANSWER] * len(input_ids))

    def __call__(self, input_ids, attention_mask, position_ids, use_cache):
        assert input_ids.device == attention_mask.device == position_ids.device == self.device
        return type("Out", (), {"logits": self.logits.expand(*input_ids.shape, 2)})


def prompts(n):
    ids = torch.tensor([PROMPT] * n)
    return PromptBatch(ids, torch.ones_like(ids, dtype=torch.bool), ("p",) * n, (None,) * n)


def test_a_kl_by_hand():
    # 1/4 and 3/4 against 1/2 and 1/2: log 2 less the entropy of the first.
    own, other = torch.tensor([[0.0, log(3)]]), torch.tensor([[5.0, 5.0]])
    expected = 0.25 * log(0.25) + 0.75 * log(0.75) + log(2)
    assert_close(kl_divergence(own.double(), other.double()), torch.tensor([expected]).double())


def test_only_counted_tokens_are_compared():
    def ours(sequences):
        assert sequences.response_mask.tolist() == [[True, True, False, False]] * len(sequences)
        # At each first token 0 is liked best, as it was said; of the second prompt's last, too.
        rows = [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [2.0, 1.0]]
        return torch.tensor(rows[: 2 * len(sequences)])

    drift = policy_drift(ours, Plain([1.0, 1.5]), [prompts(2), prompts(1)], [STOP], 4)
    # Differences: 1 and .5, 0 and .5, 1 and .5, 1 and .5; then 1 and .5, 0 and .5.
    assert drift.figures["largest difference of logits"] == 1
    assert drift.figures["mean difference of logits"] == pytest.approx((4 * 1 + 6 * 0.5) / 12)
    assert (drift.figures["prompts"], drift.figures["tokens"]) == (3, 6)
    assert drift.figures["share of equal greedy responses"] == pytest.approx(2 / 3)

    def kl(gap, other):  # two tokens whose logits are that far apart
        p, q = (1 / (1 + torch.exp(torch.tensor(x).double())) for x in (gap, other))
        return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).item()

    assert drift.size == drift.figures[KL]
    assert drift.size == pytest.approx((4 * kl(-1.0, 0.5) + 2 * kl(1.0, 0.5)) / 6, rel=1e-6)


def test_scores_are_compared_after_the_shift():
    class Classifier:
        device = torch.device("meta")
        answers = iter([[[1.0]], [[2.0]]])

        def __call__(self, input_ids):
            assert input_ids.device == self.device
            return type("Out", (), {"logits": torch.tensor(next(self.answers))})

    rows = [pad_sequences([[5]], [[n]], pad_id=0) for n in (1, 2)]
    batches = [(row, {"input_ids": row.sequence_ids}) for row in rows]
    drift = score_drift(
        lambda row: row.response_ids[:, 0] * 1.5 - 0.25, Classifier(), batches, shift=0.5
    )
    # The run: 1.25 and 2.75; the plain one: 0.5 and 1.5.
    assert drift.size == drift.figures[SCORES] == 1.25
    assert drift.figures["mean difference of scores, likewise"] == 1.0
    assert drift.figures["responses"] == 2
