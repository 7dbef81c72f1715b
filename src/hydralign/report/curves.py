"""The curves of a run: every logged figure, by group, with its unit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hydralign.report.canvas import AFTER, Picture, picture
from hydralign.report.measures import smooth
from hydralign.report.read import Curve, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = {
    "reward": "Reward",
    "rewards": "Scorers by themselves",
    "kl": "Distance from the SFT policy",
    "rollout": "What was sampled",
    "dpo": "Preferences",
    "policy": "Policy",
    "value": "Value model",
    "perf": "Speed and memory",
}
"""Parts of the names of figures, in the order of the page."""

LABELS = {
    "policy/loss": ("loss", "nats per token"),
    "policy/val_nll": ("held-out loss", "nats per token"),
    "policy/val_entropy": ("held-out entropy", "nats per token"),
    "policy/entropy": ("entropy", "nats per token"),
    "policy/approx_kl": ("KL of a rollout's updates", "nats per token"),
    "policy/clip_fraction": ("clipped", "share of tokens"),
    "policy/log_ratio_max": ("largest log-ratio", "nats"),
    "policy/log_ratio_square": ("squared log-ratio", "nats squared"),
    "policy/grad_norm": ("gradient before clipping", "norm"),
    "policy/learning_rate": ("learning rate", ""),
    "reward/loss": ("loss", "nats per pair"),
    "reward/accuracy": ("pairs ranked as people did", "share"),
    "reward/val_accuracy": ("the same, held out", "share"),
    "reward/margin": ("preferred less other", "raw score"),
    "reward/raw_score": ("mean score", "raw score"),
    "reward/grad_norm": ("gradient before clipping", "norm"),
    "reward/learning_rate": ("learning rate", ""),
    "reward/score": ("score in training", "score"),
    "reward/score_std": ("spread of the scores", "score"),
    "reward/score_minus_kl": ("score less weighted KL", "score"),
    "reward/outside_range": ("beyond what was tested", "share of responses"),
    "reward/equal_groups": ("groups of equal scores", "share of groups"),
    "dpo/loss": ("loss", ""),
    "dpo/accuracy": ("pairs ranked as people did", "share"),
    "dpo/margin": ("preferred less other", "nats"),
    "dpo/chosen_reward": ("implicit reward, preferred", "nats"),
    "dpo/rejected_reward": ("implicit reward, other", "nats"),
    "dpo/chosen_logprob": ("log-prob, preferred", "nats per response"),
    "dpo/rejected_logprob": ("log-prob, other", "nats per response"),
    "dpo/val_accuracy": ("pairs ranked, held out", "share"),
    "dpo/val_loss": ("loss, held out", ""),
    "dpo/val_margin": ("margin, held out", "nats"),
    "kl/per_sequence": ("KL", "nats per response"),
    "kl/k3_per_token": ("KL, estimate k3", "nats per token"),
    "kl/coef": ("weight of the KL", "score per nat"),
    "rollout/response_length": ("length", "tokens"),
    "rollout/eos_rate": ("stop by themselves", "share of responses"),
    "rollout/distinct_responses": ("distinct", "share of responses"),
    "value/loss": ("loss", "score squared"),
    "value/explained_variance": ("explained variance", "1 = all"),
    "value/grad_norm": ("gradient before clipping", "norm"),
    "perf/generate_seconds": ("sampling", "seconds"),
    "perf/score_seconds": ("log-probs, values, scores", "seconds"),
    "perf/train_seconds": ("updates", "seconds"),
    "perf/response_tokens_per_second": ("speed", "response tokens per second"),
    "perf/tokens_per_second": ("speed", "tokens per second"),
    "perf/peak_memory_gb": ("memory, peak so far", "GB"),
}
"""Title and unit of what is logged (docs/metrics.md); another figure goes by its name."""

NOISY = 30
"""Points from which on a mean over some neighbours is drawn as well."""
SMOOTH = ("learning_rate", "coef", "memory_gb")
"""How figures end that do not vary by chance."""


def curve_pictures(run: RunFolder) -> Iterator[Picture]:
    """Draw all curves of a run, a picture for each group of figures.

    Args:
        run: as it was read.
    """
    shown = {
        name: curve
        for name, curve in run.curves.items()
        # The headline is logged once at the end, for the HPARAMS tab; it is no curve.
        if name != "epoch" and (len(curve.steps) > 1 or name not in run.metrics)
    }
    groups = dict.fromkeys([*GROUPS, *sorted(name.partition("/")[0] for name in shown)])
    for group in groups:
        curves = {name: c for name, c in shown.items() if name.partition("/")[0] == group}
        if curves:
            yield _group_picture(group, curves, run.step_name)


def _group_picture(group: str, curves: Mapping[str, Curve], step_name: str) -> Picture:
    order = [name for name in LABELS if name in curves]
    order += sorted(name for name in curves if name not in LABELS)

    def draw(axes: Sequence["Axes"]) -> None:
        for axis, name in zip(axes, order, strict=True):
            title, unit = LABELS.get(name, (name, ""))
            draw_curve(axis, curves[name], noisy=not name.endswith(SMOOTH))
            axis.set(title=title, xlabel=step_name, ylabel=unit)

    return picture(f"curves_{group}", GROUPS.get(group, group), len(order), draw)


def draw_curve(axis: "Axes", curve: Curve, *, noisy: bool) -> None:
    """Draw one figure; where there are many points that vary, their running mean over them."""
    many = noisy and len(curve.steps) >= NOISY
    few = len(curve.steps) < 12
    axis.plot(*curve, color=AFTER, linewidth=1.4, alpha=0.35 if many else 1, marker="." * few)
    if many:
        axis.plot(curve.steps, smooth(curve.values), color=AFTER, linewidth=1.4)
    if len(curve.steps) == 1:
        axis.set_xlim(curve.steps[0] - 1, curve.steps[0] + 1)
    axis.ticklabel_format(useOffset=False)
