"""The prompts that finished policies are given: those of their own data, or of others."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from hydralign import config
from hydralign.checks import check_data
from hydralign.data.collate import PromptBatch, collate_prompts
from hydralign.data.encoder import Encoder
from hydralign.data.examples import PromptExample
from hydralign.data.records import BadRow, Prompt
from hydralign.data.splits import ALL, SPLIT_NAMES
from hydralign.data_source import DataSource, drawn
from hydralign.errors import UserError
from hydralign.finished import Policy

log = logging.getLogger(__name__)


def check_number(prompts: int | None) -> None:
    """Check how many prompts are wanted; None is no limit.

    Raises:
        UserError: if it is none at all.
    """
    if prompts is not None and prompts < 1:
        raise UserError(f"--prompts {prompts}: at least 1.")


def choose_data(own: DictConfig, overrides: Sequence[str], conf: Path) -> DictConfig:
    """Return the data config that the command line asks for.

    Args:
        own: the config of a run; its data is taken where no other is named.
        overrides: as train.py takes them: `data=NAME`, `data.key=VALUE`.
        conf: the folder of the configs.

    Raises:
        UserError: if one of them sets anything but data.
    """
    for override in overrides:
        if not override.lstrip("+~").startswith(("data=", "data.")):
            raise UserError(f"{override}: only data can be chosen here: data=NAME data.key=VALUE.")
    named = any(override.startswith("data=") for override in overrides)
    data = _composed(overrides, conf) if named else _changed(own, overrides)
    check_data(data)
    return data


def _composed(overrides: Sequence[str], conf: Path) -> DictConfig:
    config.register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        whole = compose("train", overrides=["stage=sft", "model=tiny", *overrides])
    return cast(DictConfig, whole.data)


def _changed(own: DictConfig, overrides: Sequence[str]) -> DictConfig:
    data = cast(DictConfig, OmegaConf.merge(own, OmegaConf.from_dotlist(list(overrides))).data)
    if "path" in data.source:  # a record holds what ${..path} was
        data.source.path = data.path
    return data


def draw_prompts(
    data: DictConfig,
    split: str,
    most: int | None,
    encoders: Sequence[Encoder],
    *,
    distinct: bool = False,
) -> list[Prompt]:
    """Draw prompts of a split that every policy can read.

    Args:
        data: their config.
        split: train, validation, test, or all of them.
        most: of them; None is all.
        encoders: those of the policies.
        distinct: take each but once.

    Raises:
        UserError: if none is left.
    """
    splits = DataSource(data).records("prompt")
    found: list[Prompt] = [
        record for name in (SPLIT_NAMES if split == ALL else (split,)) for record in splits[name]
    ]
    if distinct:
        found = list({record.prompt: record for record in reversed(found)}.values())[::-1]
    records = drawn(found, most)
    readable = [record for record in records if all(_reads(each, record) for each in encoders)]
    if lost := len(records) - len(readable):
        log.warning("%d of %d prompts cannot be used: %s", lost, len(records), _why(encoders))
    if not readable:
        raise UserError(
            f"data={data.name}, --split {split}: no prompt can be used. Choose another "
            "split, or a larger data.max_prompt_tokens."
        )
    return readable


def check_same_text(
    policies: Sequence[Policy], encoders: Sequence[Encoder], prompts: Sequence[Prompt]
) -> None:
    """Check that all policies read the same text.

    Raises:
        UserError: if their templates make different texts of a prompt.
    """
    for prompt in prompts:
        texts = [encoder.prompt_text(prompt.prompt) for encoder in encoders]
        if len(set(texts)) > 1:
            shown = "\n".join(
                f"  {policy.run.folder}: {text!r:.200}"
                for policy, text in zip(policies, texts, strict=True)
            )
            raise UserError(
                f"The policies have different templates, so they would not read the same prompt:\n"
                f"{shown}\nLet each read it in its own: --own-templates."
            )


def batch_of(policy: Policy, encoder: Encoder, prompts: Sequence[Prompt]) -> PromptBatch:
    """Lay out prompts as a policy reads them, on its device.

    Args:
        policy: that is to answer.
        encoder: its own.
        prompts: as the data gives them.
    """
    examples = [
        PromptExample(
            encoder.prompt_ids(record.prompt), encoder.prompt_text(record.prompt), record.answer
        )
        for record in prompts
    ]
    return collate_prompts(examples, examples, pad_id=policy.codec.pad_id).to(policy.device)


def _reads(encoder: Encoder, record: Prompt) -> bool:
    try:
        return bool(encoder.prompt_ids(record.prompt))
    except BadRow:
        return False


def _why(encoders: Sequence[Encoder]) -> str:
    limit = min(encoder.max_prompt_tokens for encoder in encoders)
    return f"more than data.max_prompt_tokens={limit}, or refused by the chat template."
