"""Uncertainty sampling: the items that a reward model is least sure of are ranked first."""

from collections.abc import Callable, Sequence

from tqdm import tqdm

from hydralign.data.messages import text_or_messages
from hydralign.data.records import BadRow, PromptText
from hydralign.labels.items import Item
from hydralign.labels.order import uncertainty

Scores = Callable[[PromptText, Sequence[str]], Sequence[float]]
"""Of the responses to a prompt; higher is better. Raises `BadRow` for what it cannot read."""

LAST = 1.0
"""The priority of items that cannot be scored."""


def unsure_first(items: Sequence[Item], scores: Scores) -> dict[int, float]:
    """Return priorities: the item whose pairs have the highest entropy comes first.

    Args:
        items: to be put in order.
        scores: those of a reward model.

    Returns:
        a number for each item's id, lower is earlier; `LAST` for an item without scores.
    """
    priorities = {}
    for item in tqdm(items, desc="scoring", delay=2, leave=False):
        prompt = text_or_messages({"prompt": item.prompt}, "prompt")
        try:
            priorities[item.id] = -uncertainty(scores(prompt, item.responses))
        except BadRow:
            priorities[item.id] = LAST
    return priorities
