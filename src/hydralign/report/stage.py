"""The report of one stage."""

import shlex
from collections.abc import Iterator, Sequence

from hydralign.outcomes import PairOutcomes, PolicyOutcomes
from hydralign.report import page
from hydralign.report.canvas import Picture
from hydralign.report.curves import curve_pictures
from hydralign.report.page import Markup, tag
from hydralign.report.pairs import pair_figures, pair_pictures
from hydralign.report.policies import policy_figures, policy_pictures
from hydralign.report.read import RunFolder
from hydralign.report.resources import resource_pictures
from hydralign.report.responses import compared, legend, watched

FIGURES = (
    ("val_nll", "held-out loss, nats per token", "{:.3f}"),
    ("unigram_nll", "the same without context", "{:.3f}"),
    ("pair_accuracy", "held-out pairs ranked as people did", "{:.3f}"),
    ("win_rate", "win rate against the SFT policy", "{:.3f}"),
    ("score_after", "held-out score", "{:+.2f}"),
    ("gold_after", "gold score, never trained on", "{:+.3f}"),
    ("kl_per_sequence", "KL, nats per response", "{:.2f}"),
    ("eos_rate", "stop by themselves", "{:.3f}"),
    ("response_length", "tokens per response", "{:.1f}"),
    ("distinct_responses", "distinct responses", "{:.3f}"),
    ("seconds", "seconds", "{:.0f}"),
    ("planned_memory_gb", "GB, planned", "{:.2f}"),
    ("peak_memory_gb", "GB, measured", "{:.2f}"),
)
"""Final figures that one looks at first, without the stage's name: words and form of each."""


def stage_page(run: RunFolder) -> tuple[str, list[Picture]]:
    """Return the report of a stage, and its pictures.

    Args:
        run: as it was read.
    """
    held_out, curves, taken = (
        list(pictures)
        for pictures in (_held_out_pictures(run), curve_pictures(run), resource_pictures(run))
    )
    title = f"{run.stage} | {run.path.name}"
    content = page.page(
        title,
        heading(run),
        cards(run),
        missing(run),
        page.section("Alarms", _alarms(run)),
        page.section("On held-out data", _held_out_table(run), page.images(held_out)),
        page.section("Responses", *_responses(run)),
        page.section("Curves", page.images(curves)),
        page.section("Memory and time", _batch_plan(run), page.images(taken)),
        page.section("Final figures", page.table(_figures(run), ("figure", "value"))),
        making(run),
    )
    return content, [*held_out, *curves, *taken]


def heading(run: RunFolder) -> Markup:
    """Say which run it is."""
    chosen = run.record["settings"]
    model, data = (chosen.get(key, {}).get("name", "unknown") for key in ("model", "data"))
    said = f"model {model}, data {data}, seed {chosen.get('seed')} | {run.path}"
    unfinished = " | not finished" if run.record.get("unfinished") else ""
    return Markup(tag("h1", run.stage) + tag("p", said, unfinished, css="quiet"))


def cards(run: RunFolder) -> Markup:
    """Show the figures that one looks at first."""
    found = []
    for name, words, form in FIGURES:
        value, low, high = (run.figure(name + end) for end in ("", "_low", "_high"))
        before = run.figure("score_before" if name == "score_after" else f"{name}_before")
        before = run.figure("gold_before") if name == "gold_after" else before
        if value is None:
            continue
        more = f"95 %: {form.format(low)} to {form.format(high)}" if None not in (low, high) else ""
        more = f"before: {form.format(before)}" if before is not None else more
        shown = tag("strong", form.format(value))
        found.append(tag("div", shown, words, tag("span", more, css="score")))
    return tag("div", *found, css="cards") if found else Markup()


def missing(run: RunFolder) -> Markup:
    """Say what the folder lacks, and so the report."""
    return page.section("Missing", page.listing(run.missing))


def making(run: RunFolder) -> Markup:
    """Say how the run came about."""
    record = run.record
    command = record.get("command")
    rows = [
        ("command", tag("code", shlex.join(["python", *command]) if command else "unknown")),
        ("commit", record.get("commit") or "unknown"),
        ("machine", record.get("machine", "unknown")),
        *((f"stage.{name}", path) for name, path in record.get("inputs", {}).items()),
        ("versions", ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())),
    ]
    return page.section(
        "How it was made",
        page.table(rows),
        page.folded("Settings", page.settings(record["settings"])),
        page.folded("Hardware", page.settings(record.get("hardware", {}))),
    )


def _held_out_pictures(run: RunFolder) -> Iterator[Picture]:
    if isinstance(run.outcomes, PairOutcomes):
        yield from pair_pictures(run.outcomes)
    yield from policy_pictures(run)


def _held_out_table(run: RunFolder) -> Markup:
    match run.outcomes:
        case PairOutcomes() as found:
            return page.table(pair_figures(found))
        case PolicyOutcomes() as found:
            head = ("mean, 95 % interval", "before", "after")
            return page.table(policy_figures(found), head)
    return Markup()


def _responses(run: RunFolder) -> Sequence[Markup]:
    if isinstance(run.outcomes, PolicyOutcomes) and run.outcomes.shown:
        return legend(), compared(run.outcomes)
    return (watched(run.answers, run.step_name),)


def _alarms(run: RunFolder) -> Markup:
    raised = run.record.get("alarms")
    if raised is None:
        return Markup()
    if not raised:
        return tag("p", "None was raised.")
    lines = (f"rollout {rollout}: {message}" for rollout, message in raised)
    return page.listing(lines, css="alarms")


def _batch_plan(run: RunFolder) -> Markup:
    said = run.record.get("batch_plan")
    return tag("p", f"Batch plan: {said}.") if said else Markup()


def _figures(run: RunFolder) -> Iterator[tuple[str, str]]:
    for name, value in run.metrics.items():
        yield name, f"{value:.4g}"
