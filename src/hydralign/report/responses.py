"""Responses as text: before and after side by side, the KL of each token as its colour."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from hydralign.outcomes import PolicyOutcomes
from hydralign.report.page import Markup, table, tag
from hydralign.report.read import Answer

STRONG = 4.0
"""Nats of a token at which its colour is full: e^4, about 55 times as likely as before."""
MORE, LESS = "217, 119, 6", "37, 99, 168"
"""Red, green and blue of tokens that became more likely, and less."""


def compared(found: PolicyOutcomes) -> Markup:
    """Show the first responses before and after, with their scores.

    Args:
        found: what the stage's test saw.
    """
    rows = [
        (
            _prompt(shown.prompt),
            Markup(tag("span", shown.before) + _score(found.before.scores[row])),
            Markup(
                "".join(coloured(text, nats) for text, nats in shown.after)
                + _score(found.after.scores[row], f", KL {found.kl[row]:+.1f} nats")
            ),
        )
        for row, shown in enumerate(found.shown)
    ]
    return table(rows, ("prompt", "before", "after"), css="responses")


def coloured(text: str, nats: float) -> Markup:
    """Return a token whose background says how its log-prob has moved.

    Args:
        text: of the token.
        nats: its log-prob under the policy less that under the reference.
    """
    color, share = (MORE if nats > 0 else LESS), min(abs(nats) / STRONG, 1)
    style = f"background: rgba({color}, {0.6 * share:.2f})"
    return tag("span", text, style=style, title=f"{nats:+.2f} nats")


def legend() -> Markup:
    """Explain the colours."""
    samples = [coloured(f"{nats:+.0f}", nats) for nats in (-4, -2, 0, 2, 4)]
    return tag(
        "p",
        "The first prompts of the test split, not chosen. Colour: KL of a token in nats, the "
        "log-prob under the policy less that under the reference: ",
        *samples,
        css="legend",
    )


def watched(answers: Mapping[int, Sequence[Answer]], step_name: str) -> Markup:
    """Show the answers to the watched prompts at the first and at the last step.

    Args:
        answers: to the same prompts, by step; what is missing at one of the two is left out.
        step_name: what a step is called.
    """
    if not answers:
        return Markup()
    first, last = min(answers), max(answers)
    head = ("prompt", f"{step_name} {first}", f"{step_name} {last}")
    return table(_watched_rows(answers[first], answers[last]), head, css="responses")


def _watched_rows(first: Sequence[Answer], last: Sequence[Answer]) -> Iterator[tuple[object, ...]]:
    later = defaultdict(list)
    for after in last:
        later[after.prompt].append(after)
    for before in first:
        if not later[before.prompt]:
            continue
        cells = (
            Markup(tag("span", x.response) + (_score(float(x.score)) if x.score else ""))
            for x in (before, later[before.prompt].pop(0))
        )
        yield _prompt(before.prompt), *cells


def _prompt(text: str) -> object:
    return text or tag("span", "(empty prompt)", css="quiet")


def _score(value: float, more: str = "") -> Markup:
    return tag("span", f"score {value:+.2f}{more}", css="score")
