"""The bar that a language model must clear: tokens without any context."""

import math
from collections import Counter
from collections.abc import Sequence

from hydralign.data.examples import DemonstrationExample


def unigram_nll(
    train_examples: Sequence[DemonstrationExample],
    eval_examples: Sequence[DemonstrationExample],
    vocab_size: int,
) -> float:
    """Return the held-out loss of an add-one-smoothed unigram model, in nats per response token.

    p(token) = (count + 1) / (n + v), counted over the n training response tokens, stop tokens
    included.

    Args:
        train_examples: what the model counts.
        eval_examples: what it is tried on, at least one.
        vocab_size: v.
    """
    counts = Counter(token for example in train_examples for token in example.response_ids)
    total = counts.total() + vocab_size
    held_out = [token for example in eval_examples for token in example.response_ids]
    return -sum(math.log((counts[token] + 1) / total) for token in held_out) / len(held_out)
