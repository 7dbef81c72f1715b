"""Signs that a run of reinforcement learning goes wrong while every number is right."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

log = logging.getLogger(__name__)

WINDOW = 5
"""Rollouts that are averaged, at the start and now: single ones are noisy."""

Change = Callable[[str], tuple[float, float]]
"""Of a metric: its mean at the start, and now."""


@dataclass(frozen=True)
class Sign:
    """What to look for, and what to do about it."""

    name: str
    seen: Callable[[Change], bool]
    advice: str


def _entropy_collapse(change: Change) -> bool:
    start, now = change("policy/entropy")
    return now < 0.2 * start


def _longer_and_longer(change: Change) -> bool:
    (score, better), (short, long) = change("reward/score"), change("rollout/response_length")
    return better > score and long > 2 * short


def _values_of_no_use(change: Change) -> bool:
    return change("value/explained_variance")[1] < 0


def _no_end(change: Change) -> bool:
    start, now = change("rollout/eos_rate")
    return now < start - 0.2


def _beyond_the_reward_model(change: Change) -> bool:
    return change("reward/outside_range")[1] > 0.25


SIGNS = (
    Sign(
        "entropy collapse",
        _entropy_collapse,
        "the policy says the same again and again. Raise kl_coef, or lower policy_learning_rate or "
        "the epochs",
    ),
    Sign(
        "scores rise with length",
        _longer_and_longer,
        "responses are more than twice as long as at the start: the reward model may like length. "
        "Look at the samples; raise kl_coef, or missing_stop_penalty where the limit is reached",
    ),
    Sign(
        "values explain nothing",
        _values_of_no_use,
        "the value model is worse than a constant, so advantages are noise. Raise "
        "value_learning_rate or value_warmup_rollouts",
    ),
    Sign(
        "fewer responses end",
        _no_end,
        "a fifth of the responses and more have lost their stop token. Raise missing_stop_penalty, "
        "or data.max_response_tokens",
    ),
    Sign(
        "scores beyond what the reward model has seen",
        _beyond_the_reward_model,
        "a quarter of the responses and more score outside the range of its held-out comparisons, "
        "where nothing says that people would agree. Look at the samples; raise kl_coef, or stop "
        "earlier",
    ),
)


@dataclass
class Alarms:
    """Watches the metrics of rollouts; each sign is told when it appears."""

    start: dict[str, list[float]] = field(default_factory=dict)
    """Of each metric: its first values."""
    now: dict[str, list[float]] = field(default_factory=dict)
    """Of each metric: its latest values."""
    on: list[str] = field(default_factory=list)
    """Names of the signs that there are at present."""
    rollouts: int = 0
    raised: list[tuple[int, str]] = field(default_factory=list)
    """All that was told, with the rollout it was told at."""

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """Take in the metrics of a rollout; say and return what is new.

        Args:
            metrics: by name.
        """
        self.rollouts += 1
        for name, value in metrics.items():
            self.start[name] = [*self.start.get(name, []), value][:WINDOW]
            self.now[name] = [*self.now.get(name, []), value][-WINDOW:]
        if self.rollouts <= WINDOW:
            return []
        seen = [sign for sign in SIGNS if sign.seen(self._change)]
        new = [sign for sign in seen if sign.name not in self.on]
        self.on = [sign.name for sign in seen]
        messages = [f"{sign.name}: {sign.advice}." for sign in new]
        self.raised += [(self.rollouts, message) for message in messages]
        for message in messages:
            log.warning("Look out, rollout %d: %s", self.rollouts, message)
        return messages

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on."""
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update(state)

    def _change(self, name: str) -> tuple[float, float]:
        nothing = [0.0]
        return mean(self.start.get(name, nothing)), mean(self.now.get(name, nothing))
