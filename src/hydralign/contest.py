"""Policies of finished runs against the one they started from: the same prompts, the same scorer.

Best of n is one of them: no training at all, and where no two scores are equal its KL is known.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor

from hydralign.data.collate import PromptBatch
from hydralign.data.loaders import EvaluationLoader
from hydralign.data_source import DataSource
from hydralign.errors import UserError
from hydralign.inputs import parent_ids, read_manifest, scores_by_model
from hydralign.memory import let_go
from hydralign.micro_batches import MicroBatches
from hydralign.model_source import build_codec, build_roles
from hydralign.models.assembly import RoleSpec
from hydralign.models.codec import Codec
from hydralign.record import recorded_inputs
from hydralign.reward_source import build_rewards
from hydralign.rl.kl import best_of_n_kl
from hydralign.rollout.sampling import Responses
from hydralign.runs import Run, find_runs, told_apart
from hydralign.stages.context import StageContext
from hydralign.stages.evaluation import Answers, HeadToHead

log = logging.getLogger(__name__)

BEST_OF = (2, 4, 8, 16)
"""Numbers of responses of which the best is taken."""


@dataclass(frozen=True)
class Result:
    """What came of one policy."""

    name: str
    figures: Mapping[str, float]
    """`win_rate`, `kl_per_sequence`, `score_after` and so on; `seconds` and `peak_memory_gb` of its
    training."""


@dataclass(frozen=True)
class Field:
    """Who takes part, and what they share."""

    reference: Path
    """Artifact of the policy that all started from."""
    reward_model: Path | None
    """That of the reward model that scores, if one does."""
    runs: Sequence[Run]


def find_field(folders: Sequence[Path]) -> Field:
    """Find the policies in some folders, and what they share.

    Args:
        folders: of finished runs, or of chains of them.

    Raises:
        UserError: if there is none, or they did not start from the same policy.
    """
    runs = told_apart([run for folder in folders for run in find_runs(folder) if run.is_policy])
    trained = [run for run in runs if "policy" in recorded_inputs(run.folder)]
    if not trained:
        raise UserError(
            f"There is no finished run of dpo, ppo, grpo or rloo in {', '.join(map(str, folders))}."
        )
    starts = {run.name: recorded_inputs(run.folder)["policy"] for run in trained}
    ids = parent_ids(starts)
    if len(set(ids.values())) > 1:
        said = ", ".join(f"{name} from {starts[name]}" for name in ids)
        raise UserError(f"The runs did not start from the same policy: {said}.")
    judges = {
        run.name: recorded_inputs(run.folder)["reward_model"]
        for run in trained
        if "reward_model" in recorded_inputs(run.folder)
    }
    if len(set(parent_ids(judges).values())) > 1:
        said = ", ".join(f"{name} by {path}" for name, path in judges.items())
        raise UserError(f"The runs were not scored by the same reward model: {said}.")
    return Field(starts[trained[0].name], next(iter(judges.values()), None), trained)


class Contest(L.LightningModule):
    """Lets policies answer the test split's prompts, one after the other."""

    inputs = {"policy": "sft", "reference": "sft", "reward_model": "reward"}
    roles = {
        "policy": RoleSpec("policy"),
        "reference": RoleSpec("reference"),
        "reward_model": RoleSpec("reward_model", scalar=True),
    }

    def __init__(
        self,
        name: str,
        context: StageContext,
        temperature: float,
        before: Answers | None = None,
        **roles: Any,
    ) -> None:
        """Put two policies and their judge together.

        Args:
            name: of the policy that is not the reference.
            context: machine and data.
            temperature: of sampling.
            before: the reference's answers, where it has given them already.
            roles: by name.
        """
        super().__init__()
        self.name, self.before = name, before
        self.policy, self.reference = roles["policy"], roles["reference"]
        self.reward_model = roles.get("reward_model")
        self.scorer = context.scorer(self.reward_model)
        self.context, self.sampling = context, context.sampling(temperature)
        self.prompts: list[PromptBatch] = []
        self.figures: dict[str, dict[str, float]] = {}

    def test_step(self, prompts: PromptBatch, index: int) -> None:
        """Keep the prompts."""
        self.prompts.append(prompts)

    def on_test_epoch_end(self) -> None:
        """Let both answer, and compare."""
        duel = self.duel(self.context.seed)
        self.before = self.before or duel.answers(self.reference)
        self.figures[self.name] = duel.figures(self.before, duel.answers(self.policy))

    def duel(self, seed: int) -> HeadToHead:
        """Return policy and reference with the prompts."""
        duel = self.context.head_to_head(
            self.reference, self.policy, self.scorer, self.sampling, seed
        )
        for prompts in self.prompts:
            duel.add(prompts)
        return duel


class BestOfN(Contest):
    """The reference against the best of n of its own responses, for several n."""

    def on_test_epoch_end(self) -> None:
        """Sample the most that are needed, and choose among the first n of each prompt."""
        duel, again = (self.duel(self.context.seed + more) for more in (0, 1))
        self.before = before = duel.answers(self.reference)
        self.figures[self.name] = again.figures(before, again.answers(self.reference))
        most = max(BEST_OF)
        again.sampling = replace(self.sampling, group_size=most)
        groups = again.answers(self.reference)
        for n in BEST_OF:
            chosen = best_of(groups, most, n)
            figures = duel.figures(before, chosen, kl_per_sequence=best_of_n_kl(n))
            self.figures[f"best of {n}"] = figures


def best_of(answers: Answers, group_size: int, n: int) -> Answers:
    """Keep the response with the highest score among the first n to each prompt.

    Args:
        answers: groups in line.
        group_size: responses to each prompt.
        n: of them to look at.
    """
    scores = answers.scores.unflatten(0, (-1, group_size))
    starts = torch.arange(0, len(answers.scores), group_size, device=scores.device)
    rows = starts + scores[:, :n].argmax(-1)
    gold = None if answers.gold is None else answers.gold[rows]
    responses, first = [], 0
    for batch in answers.responses:
        last = first + len(batch.texts)
        mine = rows[(rows >= first) & (rows < last)] - first
        responses.append(_select(batch, mine))
        first = last
    return Answers(responses, answers.scores[rows], gold)


def _select(batch: Responses, rows: Tensor) -> Responses:
    chosen = rows.tolist()
    texts = ([column[row] for row in chosen] for column in (batch.prompts, batch.texts))
    prompts, said = map(tuple, texts)
    answers = tuple(batch.answers[row] for row in chosen)
    return Responses(batch.sequences.select(rows), batch.finished[rows], prompts, said, answers)


def hold(taking_part: Field) -> list[Result]:
    """Let all policies, their origin, and the best of n of its responses, answer the same prompts.

    Args:
        taking_part: whom.
    """
    cfg, start = _what_they_share(taking_part), taking_part.reference
    source, origin = DataSource(cfg.data), Run("sft", "sft", start)
    codec = build_codec(cfg.model, source, {"reference": start})
    context = _context(cfg, source, codec)
    prompts = EvaluationLoader(
        source.examples("prompt", codec).test,
        source.collate("prompt", codec),
        batch_size=cfg.hardware.generation_batch_size,
    )
    results: list[Result] = []
    before = None
    for run in (origin, *taking_part.runs):
        log.info("%s answers the prompts of the test split", run.name)
        contest = _answer(cfg, context, prompts, taking_part, run, before)
        before = contest.before
        for name, figures in contest.figures.items():
            results.append(Result(name, figures | (_costs(run) if name == run.name else {})))
        del contest
        let_go()
    return results


def _what_they_share(taking_part: Field) -> DictConfig:
    """Return the config of a run that was scored, or of the first.

    Raises:
        UserError: if others had other data or other scorers, or nothing can score.
    """
    configs = {run.name: run.config for run in taking_part.runs}
    scored = {name: cfg for name, cfg in configs.items() if "reward_model" in cfg.stage}
    name, cfg = next(iter((scored or configs).items()))
    for key, where in (("data", configs), ("rewards", scored)):
        for other, theirs in where.items():
            if theirs[key] != cfg[key]:
                raise UserError(f"{name} and {other} cannot be compared: {key} differs.")
    if taking_part.reward_model is None and scores_by_model(cfg):
        raise UserError(
            f"Nothing can score the responses of {name}: name a run of ppo, grpo or rloo too, "
            "which knows a reward model."
        )
    return cfg


def _answer(
    cfg: DictConfig,
    context: StageContext,
    prompts: EvaluationLoader,
    taking_part: Field,
    run: Run,
    before: Answers | None,
) -> Contest:
    """Hold one contest; that of the policy that all started from also has its best of n."""
    paths = {"policy": run.artifact, "reference": taking_part.reference}
    if taking_part.reward_model is not None:
        paths["reward_model"] = taking_part.reward_model
    kind = BestOfN if run.artifact == taking_part.reference else Contest
    roles = build_roles(cfg, kind, paths, len(context.codec.tokenizer))
    temperature = cfg.stage.get("temperature", 1.0)
    contest = kind(run.name, context, temperature, before, **roles)
    trainer = L.Trainer(
        accelerator=cfg.hardware.accelerator,
        devices=1,
        precision=cfg.hardware.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.test(contest, prompts, verbose=False)
    return contest


def _context(cfg: DictConfig, source: DataSource, codec: Codec) -> StageContext:
    hardware = cfg.hardware
    scoring, generation = hardware.score_micro_batch_size, hardware.generation_batch_size
    return StageContext(
        codec=codec,
        training=MicroBatches(hardware.train_micro_batch_size),
        scoring=MicroBatches(scoring, "hardware.score_micro_batch_size"),
        generation=MicroBatches(generation, "hardware.generation_batch_size"),
        optimizer=hardware.optimizer,
        max_response_tokens=cfg.data.max_response_tokens,
        gold=source.gold(),
        side_prompts=(),
        seed=cfg.seed,
        rewards=build_rewards(cfg.rewards),
    )


def _costs(run: Run) -> dict[str, float]:
    """Return the seconds and the memory that a run took by itself."""
    manifest = read_manifest(run.artifact)
    figures = {} if manifest is None else manifest.metrics
    costs = {name: figures.get(f"{run.stage}/{name}") for name in ("seconds", "peak_memory_gb")}
    return {name: value for name, value in costs.items() if value is not None}
