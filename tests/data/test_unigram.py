import math

import pytest

from hydralign.data.examples import DemonstrationExample
from hydralign.data.unigram import unigram_nll


def test_a_count_of_one_is_added_to_every_token():
    train = [DemonstrationExample([9, 9], [2, 1]), DemonstrationExample([9], [2, 3, 1])]
    held_out = [DemonstrationExample([9], [2, 1]), DemonstrationExample([5, 5], [4])]
    # Vocabulary 7, 5 training tokens: p(2) = 3/12, p(1) = 3/12, p(4) = 1/12.
    expected = (math.log(4) + math.log(4) + math.log(12)) / 3
    assert unigram_nll(train, held_out, 7) == pytest.approx(expected, rel=1e-12)
