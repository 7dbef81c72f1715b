"""Two policies on the same held-out prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from tqdm import tqdm

from hydralign.data.collate import PromptBatch
from hydralign.micro_batches import MicroBatches
from hydralign.models.codec import Codec
from hydralign.models.roles import TextRole
from hydralign.outcomes import Judged, PolicyOutcomes, Shown
from hydralign.rewards.scorers import RuleScorer
from hydralign.rl.kl import kl_k1
from hydralign.rl.masks import masked_sum
from hydralign.rl.sequences import Sequences
from hydralign.rollout.sampling import Responses, Sampling, Scorer, sample_responses
from hydralign.stages.bootstrap import bootstrap_interval
from hydralign.summary import BeforeAndAfter


@dataclass(frozen=True)
class Answers:
    """What one policy made of some prompts, and how it was judged."""

    responses: list[Responses]
    scores: Tensor
    """(n,)"""
    gold: Tensor | None
    """(n,) by a rule that no stage trains on."""

    @property
    def texts(self) -> list[str]:
        """The n responses."""
        return [text for batch in self.responses for text in batch.texts]

    @property
    def prompts(self) -> list[str]:
        """The n prompts."""
        return [text for batch in self.responses for text in batch.prompts]

    @property
    def finished(self) -> Tensor:
        """(n,) bool, True where a stop token occurred."""
        return torch.cat([batch.finished for batch in self.responses])

    @property
    def lengths(self) -> Tensor:
        """(n,) counted tokens."""
        return torch.cat([batch.sequences.response_mask.sum(-1) for batch in self.responses])


class HeadToHead:
    """Collects the answers of a policy and of the reference it started from."""

    def __init__(
        self,
        *,
        before: TextRole,
        after: TextRole,
        scorer: Scorer,
        gold: RuleScorer | None,
        codec: Codec,
        sampling: Sampling,
        micro_batches: MicroBatches,
        seed: int,
    ) -> None:
        """Name the two.

        Args:
            before: the reference.
            after: the trained policy.
            scorer: what it was trained against.
            gold: a rule that it was not trained against, if there is one.
            codec: of both.
            sampling: of both.
            micro_batches: rows per forward pass.
            seed: of the draws.
        """
        self.before, self.after = before, after
        self.scorer, self.gold = scorer, gold
        self.codec, self.sampling, self.seed = codec, sampling, seed
        self.micro_batches = micro_batches
        self._batches: list[PromptBatch] = []

    def add(self, prompts: PromptBatch) -> None:
        """Add prompts to answer."""
        self._batches.append(prompts)

    @torch.no_grad()
    def answers(self, policy: TextRole) -> Answers:
        """Let a policy answer all prompts; each policy draws from the same seed."""
        device = self._batches[0].prompt_ids.device
        generator = torch.Generator(device).manual_seed(self.seed)
        responses = [
            sample_responses(policy, prompts, self.codec, self.sampling, generator)
            for prompts in tqdm(
                self._batches,
                "answering held-out prompts",
                delay=2,
                disable=not self.sampling.ranks.first,
            )
        ]
        scores = torch.cat([self.scorer(batch) for batch in responses])
        gold = torch.cat([self.gold(batch) for batch in responses]) if self.gold else None
        return Answers(responses, scores, gold)

    @torch.no_grad()
    def kl_per_token(self, answers: Answers) -> list[Tensor]:
        """Return the KL of the trained policy against the reference, in nats.

        Returns:
            (b, r) for each batch of responses; of no meaning where a token does not count.
        """
        temperature = self.sampling.temperature

        def kl_of(sequences: Sequences) -> Tensor:
            logprobs = self.after(sequences, temperature=temperature)
            return kl_k1(logprobs, self.before(sequences, temperature=temperature))

        return [
            self.sampling.ranks.map(kl_of, batch.sequences, self.micro_batches)
            for batch in answers.responses
        ]

    def kl_per_sequence(self, answers: Answers) -> float:
        """Mean KL of the trained policy against the reference, in nats per response."""
        return kl_totals(answers, self.kl_per_token(answers)).mean().item()

    def compare(self) -> tuple[Answers, Answers]:
        """Return the answers before and after."""
        return self.answers(self.before), self.answers(self.after)

    def figures(
        self, before: Answers, after: Answers, *, kl_per_sequence: float | None = None
    ) -> dict[str, float]:
        """Return the figures of the comparison, by name.

        A win is a higher score than the reference's on the same prompt; equal scores are half.

        Args:
            before: the reference's.
            after: the policy's.
            kl_per_sequence: in nats, where it is known without measuring it.
        """
        if kl_per_sequence is None:
            kl_per_sequence = self.kl_per_sequence(after)
        return comparison_figures(before, after, seed=self.seed, kl_per_sequence=kl_per_sequence)


def comparison_figures(
    before: Answers, after: Answers, *, seed: int, **measured: float
) -> dict[str, float]:
    """Return the figures of one policy's answers beside another's, by name.

    Args:
        before: the reference's.
        after: the policy's.
        seed: of the interval's resampling.
        measured: figures to put beside these.
    """
    wins = (torch.sign(after.scores - before.scores) + 1) / 2
    low, high = bootstrap_interval(list(wins.unsqueeze(-1)), seed=seed)
    figures = {
        "prompts": float(len(wins)),
        "score_before": before.scores.mean().item(),
        "score_after": after.scores.mean().item(),
        "win_rate": wins.mean().item(),
        "win_rate_low": low,
        "win_rate_high": high,
        **measured,
    }
    for name, answers in (("_before", before), ("", after)):
        figures |= {key + name: value for key, value in _text_figures(answers).items()}
    if before.gold is not None and after.gold is not None:
        figures["gold_before"] = before.gold.mean().item()
        figures["gold_after"] = after.gold.mean().item()
    return figures


def kl_totals(answers: Answers, kl: Sequence[Tensor]) -> Tensor:
    """Return (n,) nats of each response.

    Args:
        answers: n responses.
        kl: (b, r) of each batch of them.
    """
    masks = [batch.sequences.response_mask for batch in answers.responses]
    return torch.cat([masked_sum(x, mask, dim=-1) for x, mask in zip(kl, masks, strict=True)])


def policy_outcomes(
    before: Answers, after: Answers, kl: Sequence[Tensor], codec: Codec, shown: int
) -> PolicyOutcomes:
    """Return what two policies made of the same n prompts, row by row.

    Args:
        before: the reference's.
        after: the policy's.
        kl: (b, r) of each batch of responses after.
        codec: gives the text of tokens.
        shown: responses whose texts are kept.
    """
    tokens = (
        list(zip(codec.pieces(ids[mask]), nats[mask].tolist(), strict=True))
        for batch, values in zip(after.responses, kl, strict=True)
        for ids, mask, nats in zip(
            batch.sequences.response_ids, batch.sequences.response_mask, values, strict=True
        )
    )
    texts = zip(before.prompts[:shown], before.texts, islice(tokens, shown), strict=False)
    return PolicyOutcomes(
        before=_judged(before),
        after=_judged(after),
        kl=kl_totals(after, kl).tolist(),
        shown=[Shown(*each) for each in texts],
    )


def _judged(answers: Answers) -> Judged:
    return Judged(
        scores=answers.scores.tolist(),
        gold=None if answers.gold is None else answers.gold.tolist(),
        lengths=answers.lengths.tolist(),
        finished=answers.finished.tolist(),
    )


def side_by_side(before: Answers, after: Answers) -> list[BeforeAndAfter]:
    """Pair the n answers before with those after."""
    columns = (
        before.prompts,
        before.texts,
        after.texts,
        before.scores.tolist(),
        after.scores.tolist(),
    )
    return [BeforeAndAfter(*row) for row in zip(*columns, strict=True)]


def _text_figures(answers: Answers) -> dict[str, float]:
    texts = answers.texts
    bigrams = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    return {
        "eos_rate": answers.finished.float().mean().item(),
        "response_length": answers.lengths.float().mean().item(),
        "distinct_responses": len(set(texts)) / len(texts),
        "distinct_bigrams": len(set(bigrams)) / max(len(bigrams), 1),
    }
