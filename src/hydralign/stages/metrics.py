"""The figures of a rollout and its updates, as they are logged (docs/metrics.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hydralign.memory import peak_memory_gb
from hydralign.rl.experience import Experience
from hydralign.rl.kl import kl_k1, kl_k3
from hydralign.rl.masks import masked_mean, masked_sum
from hydralign.rollout.collect import Rollout
from hydralign.stages.averages import Averages


def rollout_metrics(
    rollout: Rollout, kl_coef: float, seen: Sequence[float] | None = None
) -> dict[str, float]:
    """Describe what was sampled.

    Args:
        rollout: b responses and their judgement.
        kl_coef: weight of the KL in what is learned from it.
        seen: the range of scores that the reward model was tested on, if it is known.
    """
    mask = rollout.sequences.response_mask
    kl = kl_k1(rollout.old_logprobs, rollout.ref_logprobs)
    kl_per_sequence = masked_sum(kl, mask, dim=-1).mean()
    k3 = kl_k3(rollout.old_logprobs, rollout.ref_logprobs)
    texts = rollout.responses.texts
    metrics = {
        "rollout/response_length": mask.sum(-1).float().mean(),
        "rollout/eos_rate": rollout.responses.finished.float().mean(),
        "rollout/distinct_responses": torch.tensor(len(set(texts)) / len(texts)),
        "reward/score": rollout.scores.mean(),
        "reward/score_std": rollout.scores.std(correction=0),
        "reward/score_minus_kl": rollout.scores.mean() - kl_coef * kl_per_sequence,
        "kl/per_sequence": kl_per_sequence,
        "kl/k3_per_token": masked_mean(k3, mask),
        "kl/coef": torch.tensor(kl_coef),
        "policy/entropy": masked_mean(rollout.entropy, mask),
    }
    if seen is not None:
        outside = (rollout.scores < seen[0]) | (rollout.scores > seen[1])
        metrics["reward/outside_range"] = outside.float().mean()
    return {name: value.item() for name, value in metrics.items()}


def policy_metrics(averages: Averages, logprobs: Tensor, batch: Experience) -> None:
    """Add how far one micro-batch's policy has moved from the one that sampled.

    Args:
        averages: collects.
        logprobs: (b, r) of the policy now.
        batch: b rows of the rollout.
    """
    mask = batch.sequences.response_mask
    approx_kl = kl_k3(batch.old_logprobs, logprobs.detach())
    averages.add("policy/approx_kl", approx_kl, mask)
    log_ratio = logprobs.detach() - batch.old_logprobs
    averages.add("policy/log_ratio_square", log_ratio.square(), mask)
    averages.add_max("policy/log_ratio_max", log_ratio.abs(), mask)


def perf_metrics(rollout: Rollout, seconds: dict[str, float]) -> dict[str, float]:
    """Describe speed and memory of one step.

    Args:
        rollout: its response tokens are what is counted.
        seconds: by phase.
    """
    tokens = rollout.sequences.response_mask.sum().item()
    return {
        **{f"perf/{phase}_seconds": value for phase, value in seconds.items()},
        "perf/response_tokens_per_second": tokens / sum(seconds.values()),
        "perf/peak_memory_gb": peak_memory_gb(),
    }


def progress_figures(metrics: dict[str, float]) -> dict[str, float]:
    """Pick what the progress bar shows."""
    names = ("policy/loss", "reward/score", "kl/per_sequence", "perf/response_tokens_per_second")
    return {name: metrics[name] for name in names if name in metrics}


def rollout_line(step: int, steps: int, metrics: dict[str, float]) -> str:
    """Say in one line how a rollout went."""
    return (
        f"rollout {step:>4}/{steps}"
        f" | score {metrics['reward/score']:+6.2f}"
        f" | KL {metrics['kl/per_sequence']:6.2f} nats/response"
        f" | length {metrics['rollout/response_length']:5.1f}"
        f" | stopped {metrics['rollout/eos_rate']:4.0%}"
        f" | entropy {metrics['policy/entropy']:4.2f}"
        f" | {metrics['perf/response_tokens_per_second']:5.0f} tokens/s"
    )
