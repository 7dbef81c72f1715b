"""Responses of finished policies to the same prompts, written for people to rank."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from hydralign.artifacts import digest
from hydralign.data.encoder import Encoder
from hydralign.data.records import Prompt
from hydralign.errors import UserError
from hydralign.finished import Policy, open_policies
from hydralign.labels.samples import MOST_RESPONSES, prompt_json
from hydralign.prompts import batch_of, check_number, check_same_text, choose_data, draw_prompts
from hydralign.rollout.sampling import Sampling, sample_responses
from hydralign.runs import find_policy
from hydralign.sample_file import OTHER_FILE, SUFFIX, SampleFile

log = logging.getLogger(__name__)

PROMPTS_AT_A_TIME = 32
"""A stop loses what was sampled of so many."""
TRIES = 4
"""How often a response is drawn until it is neither empty nor there already."""


@dataclass(frozen=True)
class Wanted:
    """What a file of samples shall hold."""

    per_prompt: int = 4
    """Responses to each prompt, of all policies and temperatures together."""
    temperatures: Sequence[float] = (1.0,)
    prompts: int | None = None
    """How many, drawn at random; None is all."""
    split: str = "train"
    data: Sequence[str] = ()
    """Overrides that choose other prompts than those of the first run."""
    seed: int = 0
    as_drawn: bool = False
    """Keep a response that is empty or there already, for a fair count of pairs; else it is drawn
    again."""
    own_templates: bool = False
    """Let each policy read the prompts in its own template."""

    def __post_init__(self) -> None:
        if not all(temperature > 0 for temperature in self.temperatures):
            raise UserError("--temperatures: each must be above 0.")
        check_number(self.prompts)
        if self.as_drawn and self.per_prompt != 2:
            raise ValueError(f"as_drawn makes pairs, not {self.per_prompt} responses")


@dataclass(frozen=True)
class Source:
    """A policy at one temperature."""

    policy: Policy
    encoder: Encoder
    sampling: Sampling
    """Its group size is how many responses each prompt gets."""

    def answer(self, prompts: Sequence[Prompt], seed: int) -> Iterator[list[tuple[str, bool]]]:
        """Return each prompt's responses, and whether they ended by themselves.

        Args:
            prompts: to answer.
            seed: of the draws.
        """
        policy, g = self.policy, self.sampling.group_size
        generator = torch.Generator(policy.device).manual_seed(seed)
        with policy.precision():
            responses = sample_responses(
                policy.role,
                batch_of(policy, self.encoder, prompts),
                policy.codec,
                self.sampling,
                generator,
            )
        said = list(zip(responses.texts, responses.finished.tolist(), strict=True))
        return (said[start : start + g] for start in range(0, len(said), g))


def deal(
    policies: Sequence[Policy],
    encoders: Sequence[Encoder],
    temperatures: Sequence[float],
    per_prompt: int,
) -> list[Source]:
    """Deal the responses of a prompt to policies and temperatures, as evenly as can be.

    Args:
        policies: that answer, each at all temperatures.
        encoders: one for each of them.
        temperatures: of the draws.
        per_prompt: responses in all; what does not divide goes to the first.

    Raises:
        UserError: if some would have none.
    """
    ways = len(policies) * len(temperatures)
    if per_prompt < max(ways, 2):
        raise UserError(
            f"--per-prompt {per_prompt} is too few: {len(policies)} policies at "
            f"{len(temperatures)} temperatures, and at least two responses to choose from, make "
            f"{max(ways, 2)}."
        )
    sources: list[Source] = []
    for policy, encoder in zip(policies, encoders, strict=True):
        drawn = policy.sampling(1.0, encoder.max_response_tokens)  # one memory of what fits
        for temperature in temperatures:
            count = per_prompt // ways + (len(sources) < per_prompt % ways)
            how = replace(drawn, temperature=temperature, group_size=count)
            sources.append(Source(policy, encoder, how))
    return sources


def rows_of(
    sources: Sequence[Source], prompts: Sequence[Prompt], batch: int, *, seed: int, as_drawn: bool
) -> list[dict[str, Any]]:
    """Let all sources answer some prompts.

    Args:
        sources: that answer.
        prompts: to answer.
        batch: number of the batch: its draws depend on nothing before it.
        seed: of all batches.
        as_drawn: keep every response; else no two to one prompt are the same, and none is empty.

    Returns:
        a row for each prompt: `prompt`, `responses`, and `samples`, which tells of each response
        where it comes from.
    """
    rows = [{"prompt": prompt_json(p.prompt), "responses": [], "samples": []} for p in prompts]
    for place, source in enumerate(sources):
        wanted = [len(row["responses"]) + source.sampling.group_size for row in rows]
        for attempt in range(1 if as_drawn else TRIES):
            short = [i for i, row in enumerate(rows) if len(row["responses"]) < wanted[i]]
            if not short:
                break
            draws = _seed(seed, batch, place, attempt)
            groups = source.answer([prompts[i] for i in short], draws)
            for i, group in zip(short, groups, strict=True):
                new = group if as_drawn else _that_differ(group, rows[i]["responses"])
                for text, finished in new[: wanted[i] - len(rows[i]["responses"])]:
                    rows[i]["responses"].append(text)
                    rows[i]["samples"].append({**_origin(source, seed), "finished": finished})
    return rows


def _that_differ(group: list[tuple[str, bool]], there: Sequence[str]) -> list[tuple[str, bool]]:
    """Return the responses that differ to the eye: from those there, each other, and from none."""
    seen = {"", *(text.strip() for text in there)}
    new = []
    for text, finished in group:
        if text.strip() not in seen:
            seen.add(text.strip())
            new.append((text, finished))
    return new


def _origin(source: Source, seed: int) -> dict[str, Any]:
    run = source.policy.run
    return {
        "policy": str(run.artifact),
        "artifact_id": run.manifest.id,
        "temperature": source.sampling.temperature,
        "seed": seed,
    }


def _seed(*parts: int) -> int:
    """Return a seed that other numbers do not share."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7])


def sample(folders: Sequence[Path], out: Path, conf: Path, wanted: Wanted) -> None:
    """Let the policies of finished runs answer, or go on with it.

    Args:
        folders: of runs, of chains, or artifacts.
        out: the file to write.
        conf: the folder of the configs.
        wanted: what to write.

    Raises:
        UserError: if a run or a prompt cannot be used, or the file is another's.
    """
    if out.suffix != SUFFIX:
        raise UserError(
            f"{out}: the name must end in {SUFFIX}, as rows are read by it: {OTHER_FILE}."
        )
    if wanted.per_prompt > MOST_RESPONSES:
        log.warning(
            "--per-prompt %d: scripts/label.py shows at most %d.", wanted.per_prompt, MOST_RESPONSES
        )
    policies = open_policies([find_policy(folder) for folder in folders])
    data = choose_data(policies[0].config, wanted.data, conf)
    encoders = [policy.encoder(data) for policy in policies]
    sources = deal(policies, encoders, wanted.temperatures, wanted.per_prompt)
    prompts = draw_prompts(data, wanted.split, wanted.prompts, encoders, distinct=True)
    if not wanted.own_templates:
        check_same_text(policies, encoders, prompts)
    with SampleFile(out, _settings(sources, prompts, wanted, data)) as file:
        write_samples(sources, prompts, file, wanted)
        _report(file, wanted.per_prompt)


def _report(file: SampleFile, per_prompt: int) -> None:
    """Say what a file holds."""
    found = file.responses()
    log.info("%d prompts with their responses are in %s.", len(found), file.path)
    if fewer := sum(count < per_prompt for count in found):
        log.info("%d of them have fewer than %d that differ.", fewer, per_prompt)
    if file.left_out:
        log.info(
            "%d more leave nothing to rank, for responses are the same or empty: they are in %s.",
            file.left_out,
            file.left_out_path,
        )


def _settings(
    sources: Sequence[Source], prompts: Sequence[Prompt], wanted: Wanted, data: DictConfig
) -> dict[str, Any]:
    """Return all that decides what the rows will be."""
    origins = [
        {**_origin(source, wanted.seed), "responses": source.sampling.group_size}
        for source in sources
    ]
    return {
        "sources": {str(place): origin for place, origin in enumerate(origins)},
        "data": data.name,
        "split": wanted.split,
        "prompts": {
            "number": len(prompts),
            "digest": digest([prompt_json(p.prompt) for p in prompts]),
        },
        "template": [source.encoder.template for source in sources],
        "as_drawn": wanted.as_drawn,
        "max_response_tokens": sources[0].sampling.max_response_tokens,
    }


def write_samples(
    sources: Sequence[Source], prompts: Sequence[Prompt], file: SampleFile, wanted: Wanted
) -> None:
    """Sample what the file lacks.

    Args:
        sources: that answer.
        prompts: all of the file.
        file: to write to.
        wanted: what it shall hold.
    """
    n = PROMPTS_AT_A_TIME
    batches = [prompts[start : start + n] for start in range(0, len(prompts), n)]
    with tqdm(total=len(batches), initial=file.batches, desc="sampling", delay=2) as bar:
        for number in range(file.batches, len(batches)):
            file.add(
                rows_of(
                    sources, batches[number], number, seed=wanted.seed, as_drawn=wanted.as_drawn
                )
            )
            bar.update()
