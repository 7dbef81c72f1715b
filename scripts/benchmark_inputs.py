"""What both sides of scripts/benchmark.py start from: the same rows, and the same weights."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydralign.data.pypi import cache_folder
from hydralign.data.splits import HashSplitter

SMOLLM2 = cache_folder() / "SmolLM2-135M-Instruct"
NEVER, PAD = "<file_sep>", "<empty_output>"
"""Tokens that SmolLM2 never samples: where the first one stops, responses have full length."""

SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
SPLIT_OVERRIDES = [f"data.splits.{name}={share}" for name, share in SPLITS.items()]

LORA: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
"""As model=smollm2_135m_lora has it."""

BETA = 0.1
"""How strongly DPO holds on to its reference; as stage=dpo has it."""

SAMPLING: dict[str, dict[str, Any]] = {
    "ppo": {"ppo_epochs": 4, "value_warmup_rollouts": 0},
    "grpo": {"epochs": 2, "group_size": 4, "kl_coef": 0.1, "kl_estimator": "k3"},
    "rloo": {"epochs": 2, "group_size": 4, "kl_coef": 0.07},
}
"""What the stages that sample are told besides sizes, on both sides. TRL's GRPO has k3 only."""

OPENINGS = (
    "Here is all that I know about {}:",
    "My grandmother used to say that {}",
    "Nobody in the village had ever asked about {} before, but",
    "What we call {} is",
)
KINDS = ("old", "small", "foreign", "broken", "famous", "plain")
THINGS = ("bridges", "bread", "letters", "bees", "glass", "songs", "boats", "gardens")
WORDS = (
    *("it", "is", "worth", "a", "second", "look", "and", "many", "people", "say", "so"),
    *("whenever", "somebody", "asks", "them"),
)


@dataclass(frozen=True)
class Work:
    """One task that both sides do."""

    stage: str
    model: str
    """smollm2: LoRA adapters. tiny: all weights."""
    rows: int
    """Of a step: demonstrations, pairs, or responses that are sampled."""
    steps: int
    """The first one is not timed."""
    stop: str = NEVER
    """The token that ends a response; smollm2 only."""
    response_tokens: int = 32
    """Most that are sampled."""

    @property
    def folder(self) -> str:
        """Where its model lies within the scratch folder."""
        return self.model if self.stop == NEVER else f"{self.model}-stopping"

    @property
    def samples(self) -> bool:
        """Whether it learns from what the policy samples."""
        return self.stage in SAMPLING

    @property
    def prompts(self) -> int:
        """Of a step; the responses of a group share theirs."""
        group_size: int = SAMPLING.get(self.stage, {}).get("group_size", 1)
        return self.rows // group_size


def prompts() -> list[str]:
    """Return 192 prompts of 8 to 16 tokens."""
    return [o.format(f"{kind} {thing}") for kind in KINDS for thing in THINGS for o in OPENINGS]


def make_rows(folder: Path) -> None:
    """Write rows with a prompt and two responses of 4 to 43 words, as uneven as real ones.

    Args:
        folder: gets `rows.jsonl`, and `train.json` with those that hydralign trains on.
    """
    rows = []
    for index, prompt in enumerate(prompts()):
        texts = []
        for length in (4 + index * 7 % 40, 4 + (index * 11 + 5) % 40):
            words = [WORDS[(index + place) % len(WORDS)] for place in range(length)]
            texts.append(" " + " ".join(words) + "!")  # no full stop: it ends a response of some
        if texts[0] == texts[1]:
            texts[1] += "!!"
        rows.append({"prompt": prompt, "response": texts[0], "responses": texts, "ranks": [0, 1]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    split_of = HashSplitter(SPLITS)
    train = [row for row in rows if split_of(str(row["prompt"])) == "train"]
    (folder / "train.json").write_text(json.dumps(train))


def make_smollm2(folder: Path, stop: str) -> None:
    """Make a folder of the same weights, with a tokenizer that stops at another token.

    Args:
        folder: to make.
        stop: the token.
    """
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(SMOLLM2 / name, folder)
    settings = json.loads((SMOLLM2 / "tokenizer_config.json").read_text())
    settings |= {"eos_token": stop, "pad_token": PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").symlink_to((SMOLLM2 / "model.safetensors").resolve())


def settings_of(work: Work) -> dict[str, Any]:
    """Return what the stage of a work is told; it takes one optimizer step in each pass."""
    if not work.samples:
        return {"steps": work.steps, "batch_size": work.rows, "warmup_steps": 0}
    sizes = {"rollout_batch_size": work.prompts, "minibatch_size": work.rows}
    return {"rollouts": work.steps, "warmup_rollouts": 0, **sizes, **SAMPLING[work.stage]}


def overrides_of(work: Work, scratch: Path, stage: str | None = None) -> list[str]:
    """Return what hydralign is told.

    Args:
        work: to do.
        scratch: with the rows and the models; stages find each other's results in it.
        stage: another stage of the same work, to prepare it.
    """
    if stage not in (None, work.stage):
        work = replace(work, stage=stage, steps=1)
    named = "smollm2_135m_lora" if work.model == "smollm2" else "tiny"
    return [
        *(f"stage={work.stage}", f"model={named}", "data=jsonl", "hardware=cpu"),
        *(f"stage.{key}={value}" for key, value in settings_of(work).items()),
        *(f"model.source={scratch / work.folder}", "model.vocab_size=null"),
        f"outputs={scratch / work.folder}-out",
        *(f"data.path={scratch / 'rows.jsonl'}", "data.template=plain", *SPLIT_OVERRIDES),
        f"data.max_response_tokens={work.response_tokens if work.samples else 64}",
        *("validate_every=1.0", "samples_every=1000000", "seed=0"),
    ]


def figures(
    step_seconds: Sequence[float], tokens: Sequence[float], peak_gb: float, **more: float
) -> dict[str, float]:
    """Return what one process measured: medians over its steps, the first one left out.

    Args:
        step_seconds: of each step.
        tokens: of each step; stages that sample count what they sampled, the others all.
        peak_gb: of the process.
        more: figures by name.
    """
    from statistics import median

    timed = list(zip(step_seconds, tokens, strict=True))[1:]
    return {
        "seconds_per_step": median(seconds for seconds, _ in timed),
        "tokens_per_second": median(count / seconds for seconds, count in timed),
        "peak_gb": peak_gb,
        **more,
    }
