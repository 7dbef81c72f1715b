"""Rules that need no training: a right answer, a pattern, a length, a form.

Each takes b prompts, responses and answers, as text, and returns b scores.
"""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

Texts = Sequence[str]
Answers = Sequence[str | None]

_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?|[-+]?\$?\.\d+")
_MARKED = re.compile(r"####\s*(.+)|\\boxed\{([^{}]*)\}")
"""How data sets mark what is the answer: GSM8K and MATH."""


def exact_number(prompts: Texts, responses: Texts, answers: Answers) -> list[float]:
    r"""1 where the response's number is the answer's, else 0.

    The number is the last one after `####` or in `\boxed{}`, or else the last one of all. Commas
    and dollar signs do not matter, nor zeros at the end of a fraction.

    Args:
        prompts: b texts, of no use here.
        responses: b texts.
        answers: b texts with a number each.

    Raises:
        ValueError: if an answer has no number.
    """
    wanted = [final_number(answer or "") for answer in answers]
    if None in wanted:
        missing = answers[wanted.index(None)]
        raise ValueError(f"the data set's answer is {missing!r}, which has no number")
    found = [final_number(response) for response in responses]
    return [float(mine == right) for mine, right in zip(found, wanted, strict=True)]


def final_number(text: str) -> Decimal | None:
    """Return the number that a text arrives at; None if it has none."""
    marked = ["".join(groups) for groups in _MARKED.findall(text)]
    numbers = _NUMBER.findall(marked[-1] if marked else text)
    try:
        return Decimal(re.sub(r"[$,]", "", numbers[-1])) if numbers else None
    except InvalidOperation:
        return None


def matches(prompts: Texts, responses: Texts, answers: Answers, *, pattern: str) -> list[float]:
    """1 where a regular expression is found in the response, else 0.

    Args:
        prompts: b texts, of no use here.
        responses: b texts.
        answers: of no use here.
        pattern: of Python's `re`; the dot matches ends of lines too.
    """
    sought = re.compile(pattern, re.DOTALL)
    return [float(sought.search(response) is not None) for response in responses]


def length(
    prompts: Texts, responses: Texts, answers: Answers, *, least: int = 0, most: int | None = None
) -> list[float]:
    """0 where the words of the response lie within bounds, down to -1 the farther they are out.

    Args:
        prompts: b texts, of no use here.
        responses: b texts.
        answers: of no use here.
        least: words; an empty response scores -1.
        most: words; twice as many score -1. None is any number.
    """
    counts = [len(response.split()) for response in responses]
    short = [max(least - n, 0) / max(least, 1) for n in counts]
    long = [0.0 if most is None else max(n - most, 0) / max(most, 1) for n in counts]
    return [-min(below + above, 1.0) for below, above in zip(short, long, strict=True)]


def sections(
    prompts: Texts,
    responses: Texts,
    answers: Answers,
    *,
    names: Sequence[str] = ("think", "answer"),
) -> list[float]:
    """1 where the response consists of named sections, each once and in this order, else 0.

    Args:
        prompts: b texts, of no use here.
        responses: b texts, such as `<think>so</think><answer>42</answer>`.
        answers: of no use here.
        names: of the sections.
    """
    body = r"\s*".join(
        rf"<{re.escape(n)}>(?:(?!</?{re.escape(n)}>).)*</{re.escape(n)}>" for n in names
    )
    form = re.compile(rf"\s*{body}\s*", re.DOTALL)
    return [float(form.fullmatch(response) is not None) for response in responses]
