"""Policies of finished runs as somebody to talk to."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydralign.chat.speaker import Speaker
from hydralign.errors import UserError
from hydralign.finished import Policy, open_policies
from hydralign.runs import find_policy, told_apart

UNKNOWN_CONTEXT = 2048
"""Tokens, where a network does not say how many it can take."""


def open_speakers(folders: Sequence[Path], most_tokens: int | None = None) -> list[Speaker]:
    """Load the policies that some folders stand for.

    Args:
        folders: of runs, of chains, or artifacts.
        most_tokens: of an answer; None is the limit of each one's training.

    Raises:
        UserError: if one is not there or cannot be loaded, or the limit makes no sense.
    """
    if most_tokens is not None and most_tokens < 1:
        raise UserError(f"--tokens {most_tokens}: at least 1.")
    policies = open_policies(told_apart([find_policy(folder) for folder in folders]))
    return [_speaker(policy, most_tokens) for policy in policies]


def _speaker(policy: Policy, most_tokens: int | None) -> Speaker:
    config = policy.role.network.language_model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or UNKNOWN_CONTEXT
    wanted = most_tokens or policy.config.data.max_response_tokens
    return Speaker(
        name=policy.run.name,
        policy=policy.role,
        codec=policy.codec,
        encoder=replace(policy.encoder(), max_prompt_tokens=sys.maxsize),  # not above `context`
        device=policy.device,
        precision=policy.precision,
        most_tokens=min(wanted, context // 2),
        context=context,
    )
