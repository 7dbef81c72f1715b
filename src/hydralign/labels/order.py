"""Which item comes first, which are ranked by several, and in which order responses are shown.

Nothing is drawn: all of it follows from hashes, so a page that is loaded again shows the same.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from hydralign.data.splits import stable_hash
from hydralign.errors import UserError


def random_priority(content: str, seed: int) -> float:
    """Return an item's place in a random order, in [0, 1)."""
    return stable_hash(f"{seed} {content}") / 2**64


def uncertainty(scores: Sequence[float]) -> float:
    """Return how unsure a reward model is of a ranking: mean entropy of its pairs, in bits.

    This is what uncertainty sampling, a kind of active learning, goes by.
    A pair has P(first is better) = sigmoid(difference of scores), as in training. All pairs count,
    and not only the best two, because the reward model learns from all of them.

    Args:
        scores: of the responses, at least two.
    """
    pairs = [_pair_entropy(a - b) for a, b in combinations(scores, 2)]
    return sum(pairs) / len(pairs)


def _pair_entropy(difference: float) -> float:
    """Entropy of a Bernoulli variable with these log-odds, in bits: stable however large."""
    odds = abs(difference)
    tail = math.exp(-odds)  # the less likely side, by the more likely one
    return (math.log1p(tail) + odds * tail / (1 + tail)) / math.log(2)


def chosen_for_several(contents: Sequence[str], share: float, annotators: int) -> dict[str, int]:
    """Return how many annotators are to rank each item.

    Args:
        contents: of the items.
        share: of them, to be ranked by several; the number is rounded.
        annotators: how many those are.

    Raises:
        UserError: if the share is no share, or there are no annotators.
    """
    if not 0 <= share <= 1:
        raise UserError(f"--overlap {share:g}: it is a share of the items, 0 to 1.")
    if annotators < 1:
        raise UserError(f"--annotators-per-item {annotators}: wanted at least 1.")
    drawn = sorted(contents, key=lambda content: stable_hash(f"several {content}"))
    several = set(drawn[: round(share * len(drawn))])
    return {content: annotators if content in several else 1 for content in contents}


def shown_order(content: str, annotator: str, k: int) -> list[int]:
    """Return the k responses' indices in the order in which an annotator sees them."""
    return sorted(range(k), key=lambda index: stable_hash(f"{annotator}\n{content}\n{index}"))
