"""One rollout: responses, and what policy, reference and scorer think of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hydralign.data.collate import PromptBatch
from hydralign.micro_batches import MicroBatches
from hydralign.models.codec import Codec
from hydralign.models.roles import TextRole
from hydralign.rl.sequences import Sequences
from hydralign.rollout.sampling import Responses, Sampling, Scorer, sample_responses
from hydralign.rollout.stopwatch import Stopwatch


@dataclass(frozen=True)
class Rollout:
    """All data of one sampling phase; one row is one response. Nothing here has a gradient."""

    responses: Responses
    """The b responses themselves."""
    old_logprobs: Tensor
    """(b, r) under the policy that sampled, recomputed the way training computes them."""
    entropy: Tensor
    """(b, r) of that policy."""
    ref_logprobs: Tensor
    """(b, r) under the reference."""
    scores: Tensor
    """(b,) of whole responses, as the scorer gave them."""

    @property
    def sequences(self) -> Sequences:
        """The b prompts with their responses."""
        return self.responses.sequences


def collect_rollout(
    policy: TextRole,
    reference: TextRole,
    scorer: Scorer,
    prompts: PromptBatch,
    codec: Codec,
    sampling: Sampling,
    generator: torch.Generator,
    *,
    micro_batches: MicroBatches,
    clock: Stopwatch,
) -> Rollout:
    """Sample responses to each prompt and let every role judge it, one role after the other.

    Old log-probs are recomputed in the very micro-batch shape of training instead of taken from
    sampling: kernels may differ between the two, and the first ratio must be 1.

    Args:
        policy: samples.
        reference: the KL is measured against it.
        scorer: scores whole responses.
        prompts: b prompts.
        codec: stop and pad ids.
        sampling: temperature, length limit, responses to each prompt, and the processes that share
            the rows.
        generator: source of the draws.
        micro_batches: rows per forward pass, as in training.
        clock: notes the seconds of sampling ("generate") and of judging ("score").
    """
    responses = sample_responses(policy, prompts, codec, sampling, generator)
    clock.lap("generate")
    sequences, temperature = responses.sequences, sampling.temperature

    def judged(function: Callable[[Sequences], Tensor]) -> Tensor:
        return sampling.ranks.map(function, sequences, micro_batches)

    with torch.no_grad():
        stats = judged(lambda some: torch.stack(policy.stats(some, temperature=temperature), -1))
        ref_logprobs = judged(lambda some: reference(some, temperature=temperature))
        scores = scorer(responses)
    old_logprobs, entropy = stats.unbind(-1)
    clock.lap("score")
    return Rollout(responses, old_logprobs, entropy, ref_logprobs, scores)
