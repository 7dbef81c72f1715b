"""Several responses to one prompt with ranks, scores or a choice, in the forms data sets have."""

from typing import Any

from hydralign.data.alpaca import instruction_of
from hydralign.data.messages import text_or_messages
from hydralign.data.records import BadRow, Comparison, PromptText, ranks_from_ratings
from hydralign.data.rows import holds, number_of, numbers_of, objects_of, text_of, value_of, within

_SCORES = ("overall_score", "fine-grained_score", "annotations")
_POST = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: "}
_ARTICLE = {"article": "Article:\n"}


def ranking(values: dict[str, Any]) -> Comparison:
    """Make a comparison of `prompt`, `responses`, and `ranks`, `ratings` (or `scores`) or both."""
    responses = value_of(values, "responses")
    if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
        raise BadRow("column 'responses' holds no list of texts")
    rated = next((column for column in ("ratings", "scores") if holds(values, column)), None)
    ratings = None if rated is None else numbers_of(values, rated)
    if holds(values, "ranks"):
        ranks = numbers_of(values, "ranks")
    elif ratings is not None:
        ranks = ranks_from_ratings(ratings)
    else:
        raise BadRow(
            f"no column 'ranks', 'ratings' or 'scores'; found {', '.join(map(str, values))}"
        )
    return Comparison(text_or_messages(values, "prompt"), tuple(responses), ranks, ratings)


def rated_completions(values: dict[str, Any]) -> Comparison:
    """Make a comparison of `instruction` and `completions`, as in UltraFeedback.

    A completion has `response` and `overall_score`. Where no completion has that, the next counts:
    `fine-grained_score`, then the mean rating of its `annotations`. All of a row are rated alike,
    because the overall score goes to 10 and the others to 5.
    """
    completions = objects_of(values, "completions")
    score = next((name for name in _SCORES if any(holds(one, name) for one in completions)), None)
    if score is None:
        raise BadRow(f"no completion has {', '.join(_SCORES[:-1])} or {_SCORES[-1]}")
    responses, ratings = [], []
    for number, completion in enumerate(completions, start=1):
        with within(f"completion {number}"):
            responses.append(text_of(completion, "response"))
            mean = score == "annotations"
            ratings.append(_mean_rating(completion) if mean else number_of(completion, score))
    ranks = ranks_from_ratings(tuple(ratings))
    return Comparison(prompt_or_instruction(values), tuple(responses), ranks, tuple(ratings))


def prompt_or_instruction(values: dict[str, Any]) -> PromptText:
    """Return `prompt`, or `instruction` where there is none.

    Raises:
        BadRow: if there is neither.
    """
    return text_or_messages(values, "prompt") if holds(values, "prompt") else instruction_of(values)


def chosen_summary(values: dict[str, Any]) -> Comparison:
    """Make a comparison of `info`, `summaries` and `choice`, as in OpenAI's summary data.

    `choice` is the index of the preferred summary; all others tie. Null is a tie of all.
    """
    texts = []
    for number, summary in enumerate(objects_of(values, "summaries"), start=1):
        with within(f"summary {number}"):
            texts.append(text_of(summary, "text"))
    choice = value_of(values, "choice")
    if choice is not None and (type(choice) is not int or not 0 <= choice < len(texts)):
        raise BadRow(f"column 'choice' holds {choice!r}, wanted 0 to {len(texts) - 1}, or null")
    ranks = [0.0 if index == choice else 1.0 for index in range(len(texts))]
    return Comparison(post_to_summarise(values), tuple(texts), tuple(ranks))


def post_to_summarise(values: dict[str, Any]) -> PromptText:
    """Return the prompt of `info`, worded as in Stiennon et al. 2020 (arXiv 2009.01325).

    Raises:
        BadRow: if it holds neither a post nor an article.
    """
    info = value_of(values, "info")
    if not isinstance(info, dict) or not (holds(info, "post") or holds(info, "article")):
        raise BadRow("column 'info' holds neither a post nor an article")
    fields = _POST if holds(info, "post") else _ARTICLE
    with within("column 'info'"):
        parts = [
            f"{words}{text_of(info, name)}" for name, words in fields.items() if info.get(name)
        ]
    return "\n\n".join([*parts, "TL;DR:"])


def _mean_rating(completion: dict[str, Any]) -> float:
    annotations = value_of(completion, "annotations")
    if not isinstance(annotations, dict) or not annotations:
        raise BadRow("column 'annotations' holds no ratings by aspect")
    ratings = []
    for aspect, annotation in annotations.items():
        rating = annotation.get("Rating") if isinstance(annotation, dict) else None
        try:
            ratings.append(float(str(rating)))  # they are texts, "N/A" where an aspect is not rated
        except ValueError as error:
            raise BadRow(f"{aspect} is rated {rating!r}, wanted a number") from error
    return number_of({"annotations": sum(ratings) / len(ratings)}, "annotations")
