"""VADER: a rule-based sentiment of English sentences, by Hutto and Gilbert (ICWSM 2014)."""

from collections.abc import Sequence
from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def vader_compound(
    prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] = ()
) -> list[float]:
    """Compound sentiment of prompt and response read as one text.

    Args:
        prompts: b texts.
        responses: b texts.
        answers: of no use here.

    Returns:
        b numbers from -1 (most negative) to +1 (most positive).
    """
    return [
        _analyzer().polarity_scores(prompt + response)["compound"]
        for prompt, response in zip(prompts, responses, strict=True)
    ]
