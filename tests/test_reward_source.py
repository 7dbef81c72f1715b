"""The rewards of a config: what they become, and which inputs and roles a stage then has."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydralign.errors import UserError
from hydralign.inputs import wanted_inputs
from hydralign.model_source import wanted_roles
from hydralign.models.assembly import RoleSpec
from hydralign.reward_source import build_rewards
from hydralign.stages.dpo import DPO
from hydralign.stages.grpo import GRPO
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward


def config(*rewards):
    whole = [{"weight": 1.0, "options": {}} | reward for reward in rewards]
    return OmegaConf.create({"rewards": whole})


def test_names_paths_weights_and_options():
    cfg = config(
        {"scorer": "reward_model", "weight": 0.5},
        {"scorer": "matches", "options": {"pattern": "b+"}},
        {"scorer": "hydralign.rewards.rules.length", "weight": 2.0, "options": {"most": 1}},
        {"scorer": "tests.test_reward_source.Constant", "options": {"value": 7.0}},
    )
    parts = build_rewards(cfg.rewards)
    assert [(part.name, part.weight) for part in parts] == [
        *(("reward_model", 0.5), ("matches", 1.0), ("length", 2.0), ("Constant", 1.0))
    ]
    assert parts[0].rule is None
    given = (["p"], ["a bb"], [None])
    assert [part.rule(*given) for part in parts[1:]] == [[1.0], [-1.0], [7.0]]


def test_scorers_of_one_name_are_told_apart():
    named = [{"scorer": "matches", "options": {"pattern": letter}} for letter in "ab"]
    parts = build_rewards(config(*named, {"scorer": "vader"}).rewards)
    assert [part.name for part in parts] == ["matches", "matches_2", "vader"]
    assert [part.rule([""], ["b"], [None]) for part in parts[:2]] == [[0.0], [1.0]]


class Constant:
    """A scorer of somebody's own that holds something."""

    def __init__(self, value):
        self.value = value

    def __call__(self, prompts, responses, answers):
        return [self.value] * len(prompts)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"scorer": "matches"}, "matches does not take {}: missing a required argument: 'pattern'"),
        ({"scorer": "vader", "options": {"x": 1}}, "vader does not take {'x': 1}: got an unexpec"),
        ({"scorer": "hydralign.rewards.rules.nothing"}, "rules.nothing cannot be imported: "),
    ],
)
def test_what_cannot_score_is_told_before_the_run(reward, message):
    with pytest.raises(UserError) as error:
        build_rewards(config(reward).rewards)
    assert message in str(error.value)


def test_where_a_reward_model_scores_stages_are_as_they_say():
    cfg = config({"scorer": "vader"}, {"scorer": "reward_model"})
    for stage in (PPO, GRPO, DPO, Reward):
        assert wanted_inputs(cfg, stage) == stage.inputs
        assert wanted_roles(cfg, stage) == stage.roles


def test_where_rules_score_no_reward_model_is_wanted():
    cfg = config({"scorer": "vader"})
    assert wanted_inputs(cfg, PPO) == {"policy": "sft"}
    assert wanted_roles(cfg, GRPO) == {
        "policy": RoleSpec("policy", trained=True),
        "reference": RoleSpec("policy"),
    }
    assert wanted_roles(cfg, PPO) == wanted_roles(cfg, GRPO) | {
        "value_model": RoleSpec("policy", trained=True, scalar=True, new_head=True)
    }


def test_a_stage_that_makes_the_reward_model_is_left_as_it_is():
    cfg = config({"scorer": "vader"})
    assert wanted_roles(cfg, Reward) == Reward.roles
    assert wanted_inputs(cfg, SimpleNamespace(inputs={"policy": "sft"})) == {"policy": "sft"}
