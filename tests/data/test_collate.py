import dataclasses

import torch

from hydralign.data.collate import collate_comparisons, collate_demonstrations, collate_prompts
from hydralign.data.examples import ComparisonExample, DemonstrationExample, Pair, PromptExample

EOS = 1  # also the padding: masks must come from lengths


def test_demonstrations_count_the_tokens_of_the_whole_step():
    step = [
        DemonstrationExample([0, 5], [7, EOS]),
        DemonstrationExample([0], [8, 9, EOS]),
        DemonstrationExample([0, 5, 6], [9]),
    ]
    batch = collate_demonstrations(step[:2], step, pad_id=EOS)
    assert batch.response_tokens == 2 + 3 + 1
    assert batch.sequences.sequence_ids.tolist() == [
        [0, 5, 7, EOS, EOS],
        [EOS, 0, 8, 9, EOS],
    ]
    assert batch.sequences.attention_mask.tolist() == [
        [True, True, True, True, False],
        [False, True, True, True, True],
    ]
    # The stop token counts, the padding of the same id does not.
    assert batch.sequences.response_mask.tolist() == [[True, True, False], [True, True, True]]


def test_comparisons_keep_the_pairs_of_a_prompt_together():
    step = [
        ComparisonExample([0], [[5, EOS], [6, 7, EOS]], [Pair(1, 0, 1.0)]),
        ComparisonExample(
            [0, 4], [[8, EOS], [9, EOS], [2, EOS]], [Pair(0, 1, 0.5), Pair(2, 0, 1.0)]
        ),
        ComparisonExample([0], [[5, EOS], [6, EOS]], [Pair(0, 1, 1.0)]),
    ]
    batch = collate_comparisons(step[:2], step, pad_id=EOS)
    assert batch.prompts == 3
    assert batch.sequences.sequence_ids.tolist() == [
        [EOS, 0, 5, EOS, EOS],
        [EOS, 0, 6, 7, EOS],
        [0, 4, 8, EOS, EOS],
        [0, 4, 9, EOS, EOS],
        [0, 4, 2, EOS, EOS],
    ]
    assert batch.sequences.response_mask.sum(-1).tolist() == [2, 3, 2, 2, 2]
    assert batch.first.tolist() == [1, 2, 4]
    assert batch.second.tolist() == [0, 3, 2]
    assert batch.target.tolist() == [1.0, 0.5, 1.0]
    assert batch.weight.tolist() == [1.0, 0.5, 0.5]
    assert batch.prompt_index.tolist() == [0, 1, 1]


def test_prompts_are_padded_on_the_left():
    examples = [PromptExample([0, 5, 6], "ab", "4"), PromptExample([EOS], "", None)]
    batch = collate_prompts(examples, examples, pad_id=EOS)
    assert batch.prompt_ids.tolist() == [[0, 5, 6], [EOS, EOS, EOS]]
    assert batch.attention_mask.tolist() == [[True, True, True], [False, False, True]]
    assert (batch.prompts, batch.answers, len(batch)) == (("ab", ""), ("4", None), 2)


def test_every_tensor_goes_to_the_device_and_every_number_stays():
    demonstrations = [DemonstrationExample([0], [5, EOS])]
    comparisons = [ComparisonExample([0], [[5], [6]], [Pair(0, 1, 1.0)])]
    prompts = [PromptExample([0], "", None)]
    for collate, examples in [
        (collate_demonstrations, demonstrations),
        (collate_comparisons, comparisons),
        (collate_prompts, prompts),
    ]:
        batch = collate(examples, examples, pad_id=EOS)
        moved = batch.to("meta")
        for field in dataclasses.fields(batch):
            before, after = getattr(batch, field.name), getattr(moved, field.name)
            if hasattr(before, "sequence_ids"):
                before, after = before.sequence_ids, after.sequence_ids
            if isinstance(before, torch.Tensor):
                assert (before.device.type, after.device.type) == ("cpu", "meta")
            else:
                assert after == before
