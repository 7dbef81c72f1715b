"""What holds for every stage that compares responses within groups."""

import pytest
import torch
from torch.testing import assert_close

from hydralign.rewards.scorers import RuleScorer, WeightedScorer
from hydralign.stages.grpo import GRPO
from hydralign.stages.rloo import RLOO
from tests.stages.test_gradients import close

pytestmark = pytest.mark.parametrize("kind", [GRPO, RLOO])


def test_steps_are_rollouts_times_epochs_times_minibatches(make_stage, make_data, fit, kind):
    stage = make_stage(kind, rollouts=3, epochs=2, minibatch_size=2)
    memory, gradients = fit(stage, make_data(stage))
    assert len(gradients.of(0)) == 3 * 2 * (4 * 2 // 2)  # four prompts, two responses to each
    assert stage.rollout_step == 3
    assert [step for step, _ in memory.logged] == [1, 2, 3]


@pytest.mark.parametrize(("g", "size"), [(2, 4), (4, 4), (3, 6)])
def test_minibatches_keep_groups_together(make_stage, make_data, fit, rollouts, kind, g, size):
    shape = {"group_size": g, "minibatch_size": size, "rollout_batch_size": 4}
    stage = make_stage(kind, **shape)
    seen, update = [], stage.update

    def spy(minibatch, averages):
        seen.append(minibatch)
        update(minibatch, averages)

    stage.update = spy
    fit(stage, make_data(stage))
    of_prompt = rollouts[0].sequences.sequence_ids
    p = rollouts[0].sequences.prompt_length
    assert len(of_prompt) == 4 * g
    assert len({tuple(ids) for ids in of_prompt[:, :p].tolist()}) == 4
    assert len(seen) == 2 * 4 * g // size
    for minibatch in seen:
        groups = minibatch.sequences.sequence_ids[:, :p].unflatten(0, (-1, g))
        assert groups.shape[:2] == (size // g, g)
        assert (groups == groups[:, :1]).all()
    for epoch in (seen[: len(seen) // 2], seen[len(seen) // 2 :]):
        rows = torch.cat([minibatch.sequences.sequence_ids for minibatch in epoch])
        assert sorted(rows.tolist()) == sorted(of_prompt.tolist())
    orders = [list(stage.minibatches(rollouts[0])) for _ in range(5)]
    assert len({str(order) for order in orders}) > 1


def test_kl_is_zero_until_the_first_update_and_the_reference_stays(
    make_stage, make_data, fit, sequences, kind
):
    stage = make_stage(kind, rollouts=4, policy_learning_rate=1e-2)
    before = stage.reference(sequences).detach()
    assert torch.equal(stage.policy(sequences), before)
    memory, _ = fit(stage, make_data(stage))
    first, *later = memory.series("kl/k3_per_token")
    assert memory.series("kl/per_sequence")[0] == first == 0.0
    assert min(later) > 1e-4
    assert torch.equal(stage.reference(sequences), before)
    assert (stage.policy(sequences) - before).abs().max() > 1e-2
    assert_close(memory.series("kl/coef"), [0.1] * 4, rtol=1e-6, atol=0)


def test_each_step_starts_from_no_gradient(make_stage, make_data, fit, kind):
    stage = make_stage(kind, minibatch_size=8, epochs=3, policy_learning_rate=0.0)
    first, *later = fit(stage, make_data(stage))[1].of(0)
    assert len(later) == 2
    for step in later:  # the same weights, the same rows
        assert_close(step, first, **close)


def scored(stage, scores):
    """The stage, with these scores for the responses of every rollout."""
    rule = RuleScorer(lambda prompts, texts, _: scores)
    stage.scorer = WeightedScorer([("rule", 1.0, rule)])
    return stage


def test_groups_of_equal_scores_are_counted(make_stage, make_data, fit, kind):
    scores = [0.5, 0.5, 1.0, 2.0, -3.0, -3.0, 4.0, 5.0]
    stage = scored(make_stage(kind, missing_stop_penalty=0.0), scores)
    memory, steps = fit(stage, make_data(stage))
    assert memory.series("reward/equal_groups") == [0.5]
    assert any(g.any() for g in steps.of(0)[0] if g is not None)


def test_a_penalty_sets_responses_of_equal_scores_apart(make_stage, make_data, fit, rollouts, kind):
    stage = scored(make_stage(kind), [1.7] * 8)
    memory, _ = fit(stage, make_data(stage))
    groups = rollouts[0].responses.finished.unflatten(0, (4, 2))
    equal = sum(1 for one, other in groups.tolist() if one == other) / 4
    assert 0 < equal < 1
    assert memory.series("reward/equal_groups") == [equal]


def test_equal_scores_teach_nothing(make_stage, make_data, fit, kind):
    stage = scored(
        make_stage(kind, missing_stop_penalty=0.0, epochs=1, minibatch_size=8), [1.7] * 8
    )
    memory, _ = fit(stage, make_data(stage))
    assert memory.series("reward/equal_groups") == [1.0]
    assert memory.series("policy/grad_norm") == [0.0]
    assert memory.series("policy/loss") == [0.0]


def test_the_learning_rate_ends_with_the_run(make_stage, make_data, fit, kind):
    stage = make_stage(kind, rollouts=3, schedule="linear")
    memory, _ = fit(stage, make_data(stage))
    assert stage.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    assert memory.series("policy/learning_rate")[0] == pytest.approx(1e-3)


def test_gradients_are_clipped(make_stage, make_data, fit, kind):
    # standing still: the ratio of a whole response is soon outside the clip range
    stage = make_stage(kind, max_grad_norm=0.01, policy_learning_rate=0.0)
    memory, gradients = fit(stage, make_data(stage))
    norms = [
        torch.cat([g.flatten() for g in step if g is not None]).norm().item()
        for step in gradients.of(0)
    ]
    assert_close(norms, [0.01] * 4, rtol=1e-3, atol=0)
    assert memory.series("policy/grad_norm")[0] > 0.01  # logged as it was before clipping


def test_the_score_rises(make_stage, make_data, fit, kind):
    sizes = {"rollouts": 20, "rollout_batch_size": 8, "group_size": 4, "minibatch_size": 8}
    learning = {"policy_learning_rate": 1e-2, "kl_coef": 0.0, "missing_stop_penalty": 0.0}
    stage = make_stage(kind, **sizes, **learning)
    memory, _ = fit(stage, make_data(stage, n=16))
    scores = memory.series("reward/score")
    assert sum(scores[-3:]) / 3 > sum(scores[:2]) / 2 + 0.3


def test_figures_compare_the_policy_before_and_after(make_stage, make_data, fit, kind):
    stage = make_stage(kind, rollouts=2, policy_learning_rate=1e-2)
    # A rule that nothing trains on: the number of z in the response.
    gold = RuleScorer(lambda prompts, texts, _: [float(text.count("z")) for text in texts])
    object.__setattr__(stage.context, "gold", gold)
    fit(stage, make_data(stage), test=True)
    name = kind.__name__.lower()
    assert stage.headline == f"{name}/win_rate"
    assert {figure.removeprefix(f"{name}/") for figure in stage.figures} == {
        *("prompts", "score_before", "score_after", "win_rate", "win_rate_low", "win_rate_high"),
        *("kl_per_sequence", "gold_before", "gold_after"),
        *("eos_rate_before", "eos_rate", "response_length_before", "response_length"),
        *("distinct_responses_before", "distinct_responses"),
        *("distinct_bigrams_before", "distinct_bigrams"),
    }
    assert stage.figures[f"{name}/prompts"] == 4  # one response each, not a group
    assert stage.figures[f"{name}/score_before"] != stage.figures[f"{name}/score_after"]
    assert [row.prompt for row in stage.samples] == ["p0", "p1", "p2", "p3"]


def test_an_untrained_policy_ties_with_its_reference(make_stage, make_data, fit, kind):
    stage = make_stage(kind, policy_learning_rate=0.0)
    fit(stage, make_data(stage), test=True)
    name = kind.__name__.lower()
    assert stage.figures[f"{name}/win_rate"] == stage.figures[f"{name}/win_rate_low"] == 0.5
    assert stage.figures[f"{name}/kl_per_sequence"] == 0.0
