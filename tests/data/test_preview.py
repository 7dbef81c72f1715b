from hydralign.data.examples import ComparisonExample, DemonstrationExample, Pair, PromptExample
from hydralign.data.preview import preview


def test_learned_tokens_stand_in_brackets_the_stop_token_by_name(letter_tokenizer):
    whole = preview(DemonstrationExample([0, 2], [28, 3, 1]), letter_tokenizer())
    assert str(whole) == "2 prompt tokens, 3 learned\n<s>a⟦ b</s>⟧"
    cut = preview(DemonstrationExample([0, 2], [28, 3]), letter_tokenizer())
    assert str(cut).endswith("<s>a⟦ b⟧")


def test_only_what_is_learned_is_bright(letter_tokenizer):
    text = preview(DemonstrationExample([0, 2], [28, 3, 1]), letter_tokenizer())
    bright = [str(text)[s.start : s.end] for s in text.spans if s.style == "bold green"]
    assert bright == ["⟦ b</s>⟧"]


def test_comparisons_say_how_each_response_fared(letter_tokenizer):
    pairs = [Pair(1, 0, 1.0), Pair(1, 2, 1.0), Pair(0, 2, 0.5)]
    example = ComparisonExample([0], [[2, 1], [3, 1], [4, 1]], pairs)
    assert str(preview(example, letter_tokenizer())).splitlines() == [
        "3 responses, 3 pairs",
        "0 won, 1 lost: <s>⟦a</s>⟧",
        "2 won, 0 lost: <s>⟦b</s>⟧",
        "0 won, 1 lost: <s>⟦c</s>⟧",
    ]


def test_prompts_come_with_their_answer(letter_tokenizer):
    text = preview(PromptExample([0, 2], "a", "4"), letter_tokenizer())
    assert str(text).splitlines() == ["2 prompt tokens", "<s>a", "answer: 4"]
