"""What scores two policies' answers: reward models of runs, rules, classifiers, the data's gold."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from hydralign.config import BUILT_IN_SCORERS, RewardConfig
from hydralign.data_source import DataSource
from hydralign.errors import UserError, nearest
from hydralign.finished import Policy, RewardModel, open_reward_model
from hydralign.record import recorded_inputs
from hydralign.reward_source import build_rewards
from hydralign.rewards.scorers import REWARD_MODEL, RuleScorer
from hydralign.rollout.sampling import Responses, Scorer

GOLD = "gold"
"""Asks for the rule of the data that no stage trains on."""


class ModelJudge:
    """A reward model that computes as it was trained."""

    def __init__(self, model: RewardModel) -> None:
        """Keep the model."""
        self.model, self._scorer = model, model.scorer()

    def __call__(self, responses: Responses) -> Tensor:
        """Return the (b,) scores of b responses."""
        with self.model.precision():
            return self._scorer(responses)


def find_judges(
    wanted: Sequence[str], policies: Sequence[Policy], data: DictConfig
) -> dict[str, Scorer]:
    """Find scorers by what the command line calls them.

    Args:
        wanted: each the folder of a reward model, `gold`, a name as in `rewards=`, or
            `{scorer: NAME, options: {...}}`; none asks for those that a policy was trained against,
            and for the gold of the data.
        policies: whose answers they are to score.
        data: config of the prompts.

    Raises:
        UserError: if one is not there, or reads other tokens than a policy writes.
    """
    named = list(wanted) or _of_training(policies, data)
    if not named:
        raise UserError(
            "Nothing is known that could score these policies. Name it: --scorer RUN of a reward "
            "model, or a rule as in rewards=[...], such as --scorer length."
        )
    return dict(_find(each, policies, data) for each in named)


def _of_training(policies: Sequence[Policy], data: DictConfig) -> list[str]:
    """Name the reward models that policies were trained against, and the gold if there is one."""
    models = [recorded_inputs(policy.run.folder).get(REWARD_MODEL) for policy in policies]
    found = [str(path) for path in dict.fromkeys(models) if path is not None]
    return found + ([GOLD] if data.gold is not None else [])


def _find(name: str, policies: Sequence[Policy], data: DictConfig) -> tuple[str, Scorer]:
    if name == GOLD:
        if (gold := DataSource(data).gold()) is None:
            raise UserError(f"--scorer gold: data={data.name} names no gold score.")
        return GOLD, gold
    if Path(name).is_dir() or "/" in name:
        model = open_reward_model(Path(name))
        for policy in policies:
            _check_reads(model, policy)
        return str(model.run.folder), ModelJudge(model)
    return name, _rule(name)


def _rule(name: str) -> RuleScorer:
    try:
        said = OmegaConf.create(name if name.startswith("{") else {"scorer": name})
        reward = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RewardConfig), said))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(
            f"--scorer {name}: wanted a name, or {{scorer: NAME, options: {{...}}}}."
        ) from error
    if reward.scorer == REWARD_MODEL:
        raise UserError("--scorer reward_model: name the folder of its run instead.")
    if "." not in reward.scorer and reward.scorer not in BUILT_IN_SCORERS:
        known = nearest(reward.scorer, [GOLD, *BUILT_IN_SCORERS])
        raise UserError(
            f"--scorer {reward.scorer}: there is no such scorer.{known} Or name the folder of a "
            "reward model, or a function of yours: package.module.function."
        )
    (part,) = build_rewards([reward])
    assert part.rule is not None
    return RuleScorer(part.rule, part.name)


def _check_reads(model: RewardModel, policy: Policy) -> None:
    """Check that a reward model reads the tokens that a policy writes."""
    if model.run.manifest.template_hash != policy.run.manifest.template_hash:
        raise UserError(
            f"{model.run.folder} cannot score what {policy.run.folder} writes: they differ in "
            "tokenizer or template. Score by a rule or a classifier, which read text, or --by-hand."
        )
