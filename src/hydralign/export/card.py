"""The model card: what a model is, how to load it, how it was made, what it is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from hydralign.export.drift import Drift
from hydralign.export.recipe import Recipe
from hydralign.export.writing import SHIFT, text_options


@dataclass(frozen=True)
class Facts:
    """What a card says of a model."""

    name: str
    """Of the model config."""
    stage: str
    recipe: Recipe
    base: str
    """What it started from, in words."""
    hub_base: str | None
    """The same as an id of the hub, if it is one."""
    quantization: str
    """Of the base while it was trained on; none is in full."""
    data: str
    template: str
    temperature: float
    max_response_tokens: int
    shift: float | None
    """What to subtract from a reward model's numbers; None for a policy."""
    score_range: Sequence[float] | None
    """Of a reward model: between which scores it was tested."""
    one_at_a_time: bool
    """Whether it takes one text at a time, for want of a pad token."""
    commands: Sequence[str]
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    drift: Drift
    licence: str | None


def model_card(facts: Facts) -> str:
    """Return the card as Markdown with front matter."""
    sections = {
        "Load it": f"```python\n{facts.recipe.lines('FOLDER')}\n```\n\n{_form(facts)}",
        "Use it": _use(facts),
        "How it was made": _making(facts),
        "Figures": _figures(facts.metrics, "figure") + "\n\nEach is named after its stage.",
        "What exporting changed": _figures(facts.drift.figures, "against the run's own model"),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(facts)),
    }
    kind = "reward model" if facts.recipe.scalar else "policy"
    head = f"# {facts.name}, {facts.stage}\n\nA {kind} trained on {facts.data} with hydralign.\n"
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items())
    return f"---\n{_front_matter(facts)}---\n\n{head}\n{body}"


def _front_matter(facts: Facts) -> str:
    task = "text-classification" if facts.recipe.scalar else "text-generation"
    kinds = ["reward-model"] if facts.recipe.scalar else [facts.stage]
    said = {
        "library_name": "peft" if facts.recipe.base else "transformers",
        "pipeline_tag": task,
        "base_model": facts.hub_base,
        "license": facts.licence,
        "tags": ["rlhf", *kinds, "hydralign"],
    }
    return yaml.safe_dump({k: v for k, v in said.items() if v is not None}, sort_keys=False)


def _form(facts: Facts) -> str:
    if facts.recipe.base is None:
        return "All weights are here, in the plain form of transformers."
    return (
        "This is a LoRA adapter: it needs its base, loaded as above. `adapter_config.json` names "
        "where the base was when the adapter was exported."
    )


def _use(facts: Facts) -> str:
    if facts.template == "chat":
        prompts = "Prompts are written in the tokenizer's chat template (`apply_chat_template`)."
    else:
        prompts = (
            "Prompts are plain text that the model goes on with; it was trained without a chat "
            "template, even if the tokenizer holds one."
        )
    if facts.shift is None:
        return (
            f"{prompts} `generation_config.json` samples as in training: temperature "
            f"{facts.temperature:g}, no top-k, no top-p, at most {facts.max_response_tokens} new "
            "tokens, to the first stop token."
        )
    options = "".join(f", {name}={value}" for name, value in text_options(facts.template).items())
    return (
        f"{prompts} Give it prompt, response and the stop token as one text, "
        f"`tokenizer(prompt + response + tokenizer.eos_token{options})`. The one logit is "
        "read at the last token, and is in standard deviations of the scores of the SFT policy's "
        "samples.\n"
        f"The score that the run gave is `logit {-facts.shift:+.6g}`"
        + (f" (minus `model.config.{SHIFT}`)" if facts.recipe.base is None else "")
        + ": the head has no bias that could hold it. Differences need nothing."
        + (" One text at a time: the tokenizer has no token for padding alone."
           if facts.one_at_a_time else "")
    )  # fmt: skip


def _making(facts: Facts) -> str:
    commands = "\n".join(facts.commands)
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    bits = (
        "" if facts.quantization == "none" else f", its linear layers kept in {facts.quantization}"
    )
    return f"Base: {facts.base}{bits}.\n\n```\n{commands}\n```\n\nVersions: {versions}."


def _figures(figures: Mapping[str, float], heading: str) -> str:
    rows = [f"| {name} | {value:.4g} |" for name, value in figures.items()]
    return "\n".join([f"| {heading} | value |", "| --- | --- |", *rows])


def _limits(facts: Facts) -> list[str]:
    common = [
        f"Nothing is known of it beyond {facts.data}: the figures are those of its held-out part.",
        "It was not trained to be right, nor to refuse. What holds of its base holds of it.",
    ]
    if facts.licence is None:
        common.append("No licence was stated. That of its base and that of its data apply.")
    if facts.shift is not None:
        tested = facts.score_range
        seen = (
            f" It was tested on scores from {tested[0]:.2f} to {tested[1]:.2f}." if tested else ""
        )
        return [f"Its scores compare responses to one prompt; prompts differ.{seen}", *common]
    if any("score_after" in name for name in facts.metrics):
        own = "The score is what it was trained on: a high one may be one of the scorer's mistakes."
        return [own, *common]
    return common
