import math

import pytest

from hydralign.errors import UserError
from hydralign.labels.order import (
    chosen_for_several,
    random_priority,
    shown_order,
    uncertainty,
)

CONTENTS = [f"item {i}" for i in range(50)]


def test_uncertainty_is_the_mean_entropy_of_the_pairs():
    assert uncertainty([0.3, 0.3]) == pytest.approx(1.0)  # sigmoid(0) = 1/2: one bit
    # Odds of 3 to 1: -(3/4 log2 3/4 + 1/4 log2 1/4) = 0.811278.
    assert uncertainty([math.log(3), 0.0]) == pytest.approx(0.811278, abs=1e-6)
    # The pairs of 0, 0, log 3: one of 1 bit, two of 0.811278.
    assert uncertainty([0.0, math.log(3), 0.0]) == pytest.approx((1 + 2 * 0.811278) / 3, abs=1e-6)


def test_huge_scores_leave_no_doubt():
    assert uncertainty([1e4, -1e4, 0.0]) == pytest.approx(0.0, abs=1e-12)


def test_a_random_order_depends_on_the_seed_alone():
    first, again, other = (
        sorted(CONTENTS, key=lambda content, seed=seed: random_priority(content, seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert first != CONTENTS
    assert all(0 <= random_priority(content, 0) < 1 for content in CONTENTS)


@pytest.mark.parametrize(("share", "several"), [(0.0, 0), (0.2, 10), (0.33, 16), (1.0, 50)])
def test_a_share_is_ranked_by_several(share, several):
    wanted = chosen_for_several(CONTENTS, share, 3)
    assert sorted(wanted.values()) == [1] * (50 - several) + [3] * several


@pytest.mark.parametrize(("share", "annotators"), [(-0.1, 2), (1.2, 2), (0.2, 0)])
def test_no_such_share(share, annotators):
    with pytest.raises(UserError, match="--overlap|--annotators-per-item"):
        chosen_for_several(CONTENTS, share, annotators)


def test_everybody_sees_another_order_and_always_the_same():
    orders = {name: [shown_order(c, name, 4) for c in CONTENTS] for name in ("Ann", "Bea")}
    assert orders["Ann"] == [shown_order(content, "Ann", 4) for content in CONTENTS]
    assert orders["Ann"] != orders["Bea"]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders["Ann"])
    first = [order[0] for order in orders["Ann"] + orders["Bea"]]
    assert all(first.count(index) >= 10 for index in range(4))  # of 100: 25 expected
