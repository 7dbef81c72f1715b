import pytest

from hydralign.data.records import BadRow, Message
from hydralign.labels.doubts import LAST, unsure_first
from hydralign.labels.samples import Sample


def test_what_the_reward_model_cannot_tell_comes_first(store):
    dialogue = (Message("user", "dialogue"),)
    for prompt in ("clear", dialogue, "too long", "even"):
        store.add([Sample(prompt, ("a", "bb"))])

    def scores(prompt, responses):
        if prompt == "too long":
            raise BadRow("prompt of 99 tokens")
        gap = {"clear": 100.0, dialogue: 1.0986123, "even": 0.0}[prompt]  # log 3: odds of 3 to 1
        return [gap * len(response) for response in responses]

    found = unsure_first(store.items(), scores)
    assert found == pytest.approx({1: 0.0, 2: -0.811278, 3: LAST, 4: -1.0}, abs=1e-6)
    store.put_in_order(found)
    assert store.next("Ann").prompt == "even"
