import pytest
import torch
from torch.testing import assert_close

from hydralign.rewards.scorers import RuleScorer
from hydralign.stages.ppo import PPO


def test_steps_are_rollouts_times_epochs_times_minibatches(make_stage, make_data, fit):
    stage = make_stage(PPO, rollouts=3, value_warmup_rollouts=1, ppo_epochs=2, minibatch_size=2)
    memory, gradients = fit(stage, make_data(stage))
    assert len(gradients.of(1)) == 3 * 2 * (8 // 2)
    assert len(gradients.of(0)) == 2 * 2 * (8 // 2)  # the first rollout trains the value model only
    assert stage.rollout_step == 3
    assert [step for step, _ in memory.logged] == [1, 2, 3]


def test_the_value_model_trains_alone_during_its_warm_up(make_stage, make_data, fit):
    stage = make_stage(PPO, rollouts=3, value_warmup_rollouts=2)
    before = [p.clone() for p in stage.policy.trained_parameters()]
    memory, _ = fit(stage, make_data(stage))
    assert memory.series("kl/per_sequence") == [0.0, 0.0, 0.0]
    assert len(memory.series("policy/loss")) == 1
    assert len(memory.series("value/loss")) == 3
    after = stage.policy.trained_parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_kl_is_zero_until_the_first_update_and_the_reference_stays(
    make_stage, make_data, fit, sequences
):
    stage = make_stage(PPO, rollouts=4, policy_learning_rate=1e-2)
    before = stage.reference(sequences).detach()
    assert torch.equal(stage.policy(sequences), before)
    memory, _ = fit(stage, make_data(stage))
    first, *later = memory.series("kl/k3_per_token")
    assert memory.series("kl/per_sequence")[0] == first == 0.0
    assert min(later) > 1e-4
    assert torch.equal(stage.reference(sequences), before)
    assert (stage.policy(sequences) - before).abs().max() > 1e-2


def test_an_adaptive_kl_coefficient_follows_the_kl(make_stage, make_data, fit):
    stage = make_stage(PPO, rollouts=4, policy_learning_rate=1e-2, target_kl_per_sequence=0.05)
    memory, _ = fit(stage, make_data(stage))
    used, kl = memory.series("kl/coef"), memory.series("kl/per_sequence")
    # The first KL is 0, an error of -1 clipped to -.2: .1 * (1 - .2 * 8 episodes / 100)
    assert_close(used[:2], [0.1, 0.0984], rtol=1e-6, atol=0)
    for now, after, measured in zip(used, [*used[1:], stage.kl_coef], kl, strict=True):
        error = min(max(measured / 0.05 - 1, -0.2), 0.2)
        assert_close(after, now * (1 + error * 8 / 100), rtol=1e-6, atol=0)
    assert max(used[1:] + [stage.kl_coef]) > min(used)


def test_a_fixed_kl_coefficient_stays(make_stage, make_data, fit):
    stage = make_stage(PPO, rollouts=3)
    memory, _ = fit(stage, make_data(stage))
    assert_close(memory.series("kl/coef"), [0.1] * 3, rtol=1e-6, atol=0)


@pytest.mark.parametrize("warm_up", [0, 1])
def test_both_learning_rates_end_with_the_run(make_stage, make_data, fit, warm_up):
    stage = make_stage(PPO, rollouts=3, schedule="linear", value_warmup_rollouts=warm_up)
    fit(stage, make_data(stage))
    ends = [optimizer.param_groups[0]["lr"] for optimizer in stage.trainer.optimizers]
    assert_close(ends, [0.0, 0.0], rtol=0, atol=1e-12)


def test_gradients_are_clipped_for_each_role_by_itself(make_stage, make_data, fit):
    stage = make_stage(PPO, max_grad_norm=0.01)
    memory, gradients = fit(stage, make_data(stage))
    for which, name in enumerate(("policy", "value")):
        norms = [
            torch.cat([g.flatten() for g in step if g is not None]).norm().item()
            for step in gradients.of(which)
        ]
        assert_close(norms, [0.01] * 4, rtol=1e-3, atol=0)
        assert memory.series(f"{name}/grad_norm")[0] > 0.01  # logged as it was before clipping


def test_the_score_rises(make_stage, make_data, fit):
    sizes = {"rollouts": 20, "rollout_batch_size": 16, "minibatch_size": 8}
    rates = {"policy_learning_rate": 1e-2, "value_learning_rate": 1e-2, "value_clip_range": None}
    stage = make_stage(PPO, **sizes, **rates, kl_coef=0.0, missing_stop_penalty=0.0)
    memory, _ = fit(stage, make_data(stage, n=16))
    scores = memory.series("reward/score")
    assert sum(scores[-3:]) / 3 > sum(scores[:2]) / 2 + 0.3


def test_a_fresh_value_model_ends_on_the_score_before_its_last_token(make_stage, make_data, fit):
    """Value model and reward model start alike: the value before token t is the score at t - 1."""
    stage, kept = make_stage(PPO), []
    collect = stage.collect
    stage.collect = lambda *args: kept.append(collect(*args)) or kept[-1]
    start = {name: x.clone() for name, x in stage.reward_model.state_dict().items()}
    fit(stage, make_data(stage))
    stage.reward_model.load_state_dict(start)
    sequences = kept[0].sequences
    rows = [row for row, mask in enumerate(sequences.response_mask) if mask.sum() > 1]
    assert len(rows) > 3
    for row in rows:
        n = int(sequences.response_mask[row].sum())
        cut = sequences.select(torch.tensor([row]))
        shorter = cut.response_mask & (torch.arange(5) < n - 1)
        keep = torch.cat([cut.attention_mask[:, : cut.prompt_length], shorter], 1)
        score = stage.reward_model.scores(type(cut)(cut.sequence_ids, keep, shorter))
        assert_close(kept[0].old_values[row, n - 1], score[0], rtol=1e-5, atol=1e-5)


def test_figures_compare_the_policy_before_and_after(make_stage, make_data, fit, context):
    stage = make_stage(PPO, rollouts=2, policy_learning_rate=1e-2)
    # A rule that nothing trains on: the number of z in the response.
    gold = RuleScorer(lambda prompts, texts, _: [float(text.count("z")) for text in texts])
    object.__setattr__(stage.context, "gold", gold)
    fit(stage, make_data(stage), test=True)
    figures = {name.removeprefix("ppo/"): value for name, value in stage.figures.items()}
    assert set(figures) == {
        *("prompts", "score_before", "score_after", "win_rate", "win_rate_low", "win_rate_high"),
        *("kl_per_sequence", "gold_before", "gold_after"),
        *("eos_rate_before", "eos_rate", "response_length_before", "response_length"),
        *("distinct_responses_before", "distinct_responses"),
        *("distinct_bigrams_before", "distinct_bigrams"),
    }
    assert figures["prompts"] == 4
    assert 0 <= figures["win_rate_low"] <= figures["win_rate"] <= figures["win_rate_high"] <= 1
    assert figures["score_before"] != figures["score_after"]
    assert [row.prompt for row in stage.samples] == ["p0", "p1", "p2", "p3"]
    after = sum(row.score_after for row in stage.samples) / 4
    assert_close(figures["score_after"], after, rtol=1e-5, atol=0)


def test_an_untrained_policy_ties_with_its_reference(make_stage, make_data, fit):
    stage = make_stage(PPO, policy_learning_rate=0.0)
    fit(stage, make_data(stage), test=True)
    figures = stage.figures
    assert figures["ppo/win_rate"] == figures["ppo/win_rate_low"] == 0.5
    assert figures["ppo/score_before"] == figures["ppo/score_after"]
    assert figures["ppo/kl_per_sequence"] == 0.0
