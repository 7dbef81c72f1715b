"""Each sign of a run that goes wrong, and its absence."""

import logging

import pytest

from hydralign.stages.alarms import WINDOW, Alarms

WELL = {
    "policy/entropy": 3.0,
    "reward/score": 0.5,
    "rollout/response_length": 20.0,
    "rollout/eos_rate": 0.9,
    "value/explained_variance": 0.4,
    "reward/outside_range": 0.05,
}


def told(*phases):
    """What is told over phases of WINDOW rollouts each, where some metrics are changed."""
    alarms = Alarms()
    return [m for changed in phases for _ in range(WINDOW) for m in alarms.look(WELL | changed)]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"policy/entropy": 0.5}, "entropy collapse"),
        ({"reward/score": 0.9, "rollout/response_length": 41.0}, "scores rise with length"),
        ({"value/explained_variance": -0.1}, "values explain nothing"),
        ({"rollout/eos_rate": 0.69}, "fewer responses end"),
        ({"reward/outside_range": 0.3}, "scores beyond what the reward model has seen"),
    ],
)
def test_a_sign_is_told_once_with_advice(changed, name):
    messages = told({}, changed, changed)
    assert len(messages) == 1
    assert messages[0].startswith(f"{name}: ")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"policy/entropy": 0.7},  # a fifth of 3 is 0.6
        {"reward/score": 0.9, "rollout/response_length": 39.0},
        {"reward/score": 0.4, "rollout/response_length": 60.0},  # longer, but not for its score
        {"value/explained_variance": 0.01},
        {"rollout/eos_rate": 0.71},
        {"reward/outside_range": 0.24},
    ],
)
def test_what_goes_well_is_left_alone(changed):
    assert told({}, changed) == []


def test_the_first_rollouts_are_what_the_others_are_measured_by():
    assert told({"value/explained_variance": -1.0}) == []


def test_a_single_rollout_is_no_sign():
    alarms = Alarms()
    values = [WELL] * 6 + [WELL | {"policy/entropy": 0.0}] + [WELL] * 6
    assert [message for metrics in values for message in alarms.look(metrics)] == []


def test_what_comes_back_is_told_again(caplog):
    collapsed = {"policy/entropy": 0.1}
    with caplog.at_level(logging.WARNING):
        assert len(told({}, collapsed, {}, collapsed)) == 2
    assert caplog.messages[0].startswith("Look out, rollout 10: entropy collapse: ")


def test_where_the_reward_model_does_not_say_its_range_nothing_is_told_of_it():
    alarms = Alarms()
    metrics = {name: value for name, value in WELL.items() if name != "reward/outside_range"}
    assert [m for _ in range(3 * WINDOW) for m in alarms.look(metrics)] == []


def test_alarms_go_on_where_they_were():
    whole, cut = Alarms(), Alarms()
    for alarms in (whole, cut):
        for _ in range(WINDOW):
            alarms.look(WELL)
    resumed = Alarms()
    resumed.load_state_dict(cut.state_dict())
    collapsed = WELL | {"policy/entropy": 0.1}
    expected = [whole.look(collapsed) for _ in range(WINDOW)]
    assert [resumed.look(collapsed) for _ in range(WINDOW)] == expected
    assert any(expected)
