"""How far an exported model has drifted from the run's own, on held-out texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hydralign.data.collate import PromptBatch
from hydralign.models.roles import Network
from hydralign.rl.masks import response_mask_from_stops
from hydralign.rl.sequences import Sequences


@dataclass(frozen=True)
class Drift:
    """What was measured."""

    figures: Mapping[str, float]
    """By what they mean."""
    bounded: str
    """The one that may not be large."""

    @property
    def size(self) -> float:
        """The figure that may not be large."""
        return self.figures[self.bounded]


KL = "KL, nats per token"
SCORES = "largest difference of scores, in standard deviations"


@torch.no_grad()
def policy_drift(
    ours: Callable[[Sequences], Tensor],
    plain: Any,
    prompts: Sequence[PromptBatch],
    stop_ids: Sequence[int],
    max_tokens: int,
) -> Drift:
    """Compare the logits of every token of the exported policy's greedy responses.

    A response is also the run's own greedy one if the run's policy, too, likes each of its tokens
    best.

    Args:
        ours: gives the run's logits (n, v) before each of the n counted tokens.
        plain: the exported policy with its settings, as plain libraries load it, on any device.
        prompts: held-out ones.
        stop_ids: what ends a response.
        max_tokens: of a response.
    """
    largest, total, kl, elements, tokens, equal, rows = 0.0, 0.0, 0.0, 0, 0, 0, 0
    for batch in tqdm(prompts, desc="Compare on held-out prompts", delay=2, leave=False):
        sequences = _greedy(plain, batch, stop_ids, max_tokens)
        own, other = ours(sequences).cpu().double(), plain_logits(plain, sequences).double()
        apart = (own - other).abs()
        largest, total = max(largest, apart.max().item()), total + apart.sum().item()
        kl += kl_divergence(own, other).sum().item()
        liked = torch.ones_like(sequences.response_mask)
        liked[sequences.response_mask] = own.argmax(-1) == sequences.counted(sequences.response_ids)
        equal, rows = equal + int(liked.all(-1).sum()), rows + len(sequences)
        elements, tokens = elements + apart.numel(), tokens + len(own)
    figures = {
        "prompts": float(rows),
        "tokens": float(tokens),
        "largest difference of logits": largest,
        "mean difference of logits": total / elements,
        KL: kl / tokens,
        "share of equal greedy responses": equal / rows,
    }
    return Drift(figures, KL)


@torch.no_grad()
def score_drift(
    ours: Callable[[Sequences], Tensor],
    plain: Any,
    batches: Sequence[tuple[Sequences, Mapping[str, Tensor]]],
    shift: float,
) -> Drift:
    """Compare the scores of held-out responses.

    Args:
        ours: gives the run's normalised scores (b,).
        plain: the exported reward model, as plain libraries load it, on any device.
        batches: each as the run lays it out, and as others give it to the exported one.
        shift: to be subtracted from the numbers of the exported one.
    """
    differences = []
    for own, given in tqdm(batches, desc="Compare on held-out responses", delay=2, leave=False):
        there = {name: tensor.to(plain.device) for name, tensor in given.items()}
        scores = plain(**there).logits.squeeze(-1).cpu() - shift
        differences.append((ours(own).cpu().double() - scores.double()).abs())
    apart = torch.cat(differences)
    figures = {
        "responses": float(len(apart)),
        SCORES: apart.max().item(),
        "mean difference of scores, likewise": apart.mean().item(),
    }
    return Drift(figures, SCORES)


def kl_divergence(own: Tensor, other: Tensor) -> Tensor:
    """Return KL(own || other) in nats of the distributions that logits (n, v) stand for: (n,)."""
    logprobs = own.log_softmax(-1)
    return (logprobs.exp() * (logprobs - other.log_softmax(-1))).sum(-1)


def own_logits(network: Network, sequences: Sequences) -> Tensor:
    """Return a network's logits (n, v) before each of the n counted tokens."""
    states = network(
        input_ids=sequences.sequence_ids,
        attention_mask=sequences.attention_mask,
        position_ids=sequences.position_ids,
        use_cache=False,
    )
    before = states[:, sequences.prompt_length - 1 : -1]
    return network.lm_head(sequences.counted(before))


def plain_logits(plain: Any, sequences: Sequences) -> Tensor:
    """Return a plain model's logits (n, v) before each of the n counted tokens, on the CPU."""
    there = sequences.to(plain.device)
    found = plain(
        input_ids=there.sequence_ids,
        attention_mask=there.attention_mask,
        position_ids=there.position_ids,
        use_cache=False,
    )
    before: Tensor = found.logits[:, sequences.prompt_length - 1 : -1]
    return sequences.counted(before.cpu())


def _greedy(
    plain: Any, prompts: PromptBatch, stop_ids: Sequence[int], max_tokens: int
) -> Sequences:
    """Let a plain model write the likeliest token each time, to the first stop token."""
    p = prompts.prompt_ids.shape[1]
    ids: Tensor = plain.generate(
        input_ids=prompts.prompt_ids.to(plain.device),
        attention_mask=prompts.attention_mask.long().to(plain.device),
        do_sample=False,
        max_new_tokens=max_tokens,
    ).cpu()
    mask, _ = response_mask_from_stops(ids[:, p:], torch.tensor(stop_ids))
    return Sequences(ids, torch.cat([prompts.attention_mask, mask], dim=1), mask)
