import pytest

from hydralign.data.preferences import pair
from hydralign.data.records import BadRow, Comparison, Message

USER, ASSISTANT = "user", "assistant"
HI, HELLO, BYE = Message(USER, "Hi"), Message(ASSISTANT, "Hello"), Message(USER, "Bye")


def said(role, content):
    return {"role": role, "content": content}


def replies(chosen, rejected, before=()):
    """Both sides as messages, after the same ones."""
    sides = {"chosen": chosen, "rejected": rejected}
    return {side: [*before, said(ASSISTANT, text)] for side, text in sides.items()}


def better(prompt, chosen, rejected, ratings=None):
    return Comparison(prompt, (chosen, rejected), (0, 1), ratings)


def reason(values):
    with pytest.raises(BadRow) as caught:
        pair(values)
    return str(caught.value)


TEXTS = {"chosen": " blue.", "rejected": " green."}
TURNS = [said(USER, "Hi"), said(ASSISTANT, "Hello"), said(USER, "Bye")]
SHARED = [
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Hello"},
    {"from": "human", "value": "Bye"},
]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ({"prompt": "The sky is"}, "The sky is"),
        ({"prompt": ""}, ""),
        ({"prompt": TURNS}, (HI, HELLO, BYE)),
        ({"conversations": SHARED}, (HI, HELLO, BYE)),
        ({"messages": TURNS}, (HI, HELLO, BYE)),
        ({"question": "Colour?"}, "Colour?"),
        ({"question": "Colour?", "system": ""}, "Colour?"),
        (
            {"question": "Colour?", "system": "Be brief."},
            (Message("system", "Be brief."), Message(USER, "Colour?")),
        ),
        ({"instruction": "Name it.", "input": "The sky"}, "Name it.\n\nThe sky"),
        ({"instruction": "Name it."}, "Name it."),
        ({"prompt": None, "question": "Colour?"}, "Colour?"),
        ({"prompt": "Hi", "messages": TURNS}, "Hi"),
    ],
)
def test_a_prompt_in_a_column_of_its_own(prompt, expected):
    assert pair(TEXTS | prompt) == better(expected, " blue.", " green.")


@pytest.mark.parametrize(
    "sides",
    [
        replies("Blue.", "Green."),
        {"chosen": said(ASSISTANT, "Blue."), "rejected": said(ASSISTANT, "Green.")},
        {
            "chosen": {"from": "gpt", "value": "Blue."},
            "rejected": {"from": "gpt", "value": "Green."},
        },
    ],
)
def test_responses_as_messages(sides):
    assert pair({"prompt": TURNS, **sides}) == better((HI, HELLO, BYE), "Blue.", "Green.")
    assert pair({"conversations": SHARED, **sides}) == better((HI, HELLO, BYE), "Blue.", "Green.")
    assert pair({"prompt": "The sky?", **sides}) == better("The sky?", "Blue.", "Green.")


def test_whole_dialogues_hold_their_prompt():
    sides = replies("Blue.", "Green.", TURNS)
    expected = better((HI, HELLO, BYE), "Blue.", "Green.")
    assert pair(sides) == expected
    # Sets such as ultrafeedback_binarized give a user's message once more.
    assert pair(sides | {"prompt": "Hi"}) == expected
    assert pair(sides | {"prompt": " Bye\n"}) == expected
    assert pair(sides | {"prompt": TURNS[:1]}) == expected
    assert pair(sides | {"prompt": TURNS}) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "cut"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),
        # They part within a word.
        ("A bright day", "A brief day", "A", (" bright day", " brief day")),
        ("Q: a?\nA: yes", "Q: a?\nA: no", "Q: a?\nA:", (" yes", " no")),
        ("Q\n\nYes", "Q\n\nNo", "Q\n\n", ("Yes", "No")),
        # One is the beginning of the other.
        ("The sky is", "The sky is high", "The sky", (" is", " is high")),
        ("The sky", "The skyline", "The", (" sky", " skyline")),
        # The word itself is shared, the comma after it is not.
        ("It is so, yes", "It is so yes", "It is", (" so, yes", " so yes")),
    ],
)
def test_texts_are_cut_before_the_word_in_which_they_part(chosen, rejected, prompt, cut):
    assert pair({"chosen": chosen, "rejected": rejected}) == better(prompt, *cut)


def test_texts_that_are_dialogues_are_cut_at_the_last_reply():
    before = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: "
    sides = {"chosen": before + "I am off", "rejected": before + "I am on"}
    assert pair(sides) == better((HI, HELLO, BYE), "I am off", "I am on")
    sides["rejected"] = before.replace("Bye", "Go") + "I am off"
    assert reason(sides) == "chosen and rejected differ before their last reply"


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ({"score_chosen": 8.0, "score_rejected": 6.5}, (8, 6.5)),
        ({"chosen_score": 1, "rejected_score": -1}, (1, -1)),
        ({"chosen_rating": 5, "rejected_rating": 4}, (5, 4)),
        ({"score_chosen": None, "score_rejected": None}, None),
        ({"tie": False}, None),
        ({"tie": None}, None),
    ],
)
def test_ratings_of_both_sides(ratings, expected):
    values = {"prompt": "The sky is", **TEXTS, **ratings}
    assert pair(values) == better("The sky is", " blue.", " green.", expected)


@pytest.mark.parametrize("tie", [{"tie": True}, {"score_chosen": 3, "score_rejected": 3.0}])
def test_a_tie_ranks_nothing(tie):
    assert reason({"prompt": "The sky is", **TEXTS, **tie}) == "only ties"


P = {"prompt": "p"}
NO_WORDS = "no prompt: no column holds it, and chosen and rejected share no first word"
BAD = [
    ({"chosen": "a"}, "no column 'rejected'; found chosen"),
    ({"rejected": "a"}, "no column 'chosen'; found rejected"),
    (P | {"chosen": "a", "rejected": " a\n"}, "chosen and rejected are the same"),
    (P | replies("a", "a "), "chosen and rejected are the same"),
    (P | {"chosen": "a", "rejected": " "}, "empty response"),
    (P | replies("", "b"), "empty response"),
    (
        P | {"chosen": "a", "rejected": None},
        "column 'rejected' holds NoneType, wanted text as in 'chosen'",
    ),
    (
        P | {"chosen": [], "rejected": "a"},
        "column 'chosen' holds list, wanted text as in 'rejected'",
    ),
    (P | {"chosen": 1, "rejected": 2}, "column 'chosen' holds int, wanted a list of messages"),
    (P | {"chosen": [], "rejected": []}, "column 'chosen' holds no messages"),
    (
        P | {"chosen": [said(ASSISTANT, "a")], "rejected": [said(USER, "b")]},
        "column 'rejected' ends with role 'user', wanted assistant",
    ),
    ({"prompt": 3, **TEXTS}, "column 'prompt' holds int, wanted text"),
    ({"prompt": [], **TEXTS}, "column 'prompt' holds no messages"),
    ({"instruction": " ", **TEXTS}, "empty instruction"),
    (
        {"chosen": "Yes.", "rejected": "No."},
        NO_WORDS,
    ),
    (
        {"chosen": "\n\nYes.", "rejected": "\n\nNo."},
        NO_WORDS,
    ),
    ({"chosen": "The sky is ", "rejected": "The sky is blue"}, "empty response"),
    (
        replies("a", "b"),
        "no prompt: no column holds it, and nothing precedes the last messages",
    ),
    (
        {"chosen": [*TURNS, said(ASSISTANT, "a")], "rejected": [TURNS[0], said(ASSISTANT, "b")]},
        "chosen and rejected differ before their last message",
    ),
    (
        P | replies("a", "b", TURNS),
        "what comes before the last message of chosen does not repeat 'prompt'",
    ),
    (
        {"prompt": TURNS[2:]} | replies("a", "b", TURNS),
        "what comes before the last message of chosen does not repeat 'prompt'",
    ),
    (
        {"conversations": SHARED[:2], **TEXTS},
        "column 'conversations' has a message of the assistant just before the response",
    ),
    (
        replies("a", "b", TURNS[:2]),
        "column 'chosen' has a message of the assistant just before the response",
    ),
    (
        P | TEXTS | {"score_chosen": 2, "score_rejected": 3},
        "chosen is rated below rejected: 2 and 3",
    ),
    (
        P | TEXTS | {"score_chosen": 2, "score_rejected": float("nan")},
        "column 'score_rejected' holds nan, wanted a number",
    ),
    (
        P | TEXTS | {"chosen_rating": 2},
        "no column 'rejected_rating'; found prompt, chosen, rejected, chosen_rating",
    ),
    (P | TEXTS | {"tie": "no"}, "column 'tie' holds 'no', wanted true or false"),
]


@pytest.mark.parametrize(("values", "expected"), BAD)
def test_a_pair_that_cannot_be_used_says_why(values, expected):
    assert reason(values) == expected
