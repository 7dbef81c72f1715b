"""The `rewards` of a config as objects: what scores a response, and by how much it counts."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hydralign.config import BUILT_IN_SCORERS
from hydralign.errors import UserError
from hydralign.rewards.scorers import REWARD_MODEL, Part


def build_rewards(rewards: Sequence[DictConfig]) -> tuple[Part, ...]:
    """Find the scorers of a config.

    Args:
        rewards: the config's list.

    Raises:
        UserError: if one cannot be imported, or does not take its options.
    """
    names = [reward.scorer.rpartition(".")[2] for reward in rewards]
    parts = []
    for number, (name, reward) in enumerate(zip(names, rewards, strict=True)):
        again = names[:number].count(name)
        rule = None if reward.scorer == REWARD_MODEL else _rule(reward)
        parts.append(Part(f"{name}_{again + 1}" if again else name, reward.weight, rule))
    return tuple(parts)


def _rule(reward: DictConfig) -> Any:
    """Return a function of prompts, responses and answers: one with its options, or an object."""
    path = BUILT_IN_SCORERS.get(reward.scorer, reward.scorer)
    options: Any = OmegaConf.to_container(reward.options, resolve=True)
    try:
        found = get_object(path)
    except Exception as error:
        raise UserError(f"rewards: {path} cannot be imported: {error}") from error
    try:
        if inspect.isclass(found):
            return found(**options)
        inspect.signature(found).bind([], [], [], **options)
    except TypeError as error:
        raise UserError(f"rewards: {reward.scorer} does not take {options}: {error}.") from error
    return partial(found, **options)
