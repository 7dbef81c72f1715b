import pytest

from hydralign.data.rankings import (
    chosen_summary,
    post_to_summarise,
    ranking,
    rated_completions,
)
from hydralign.data.records import BadRow, Comparison, Message

ROW = {"prompt": "p", "responses": ["a", "b", "c"]}


def reason(make, values):
    with pytest.raises(BadRow) as caught:
        make(values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "ranks", "ratings"),
    [
        ({"ranks": [2, 1, 1]}, (2, 1, 1), None),
        ({"ratings": [0.5, 3, 0.5]}, (1, 0, 1), (0.5, 3, 0.5)),
        ({"scores": [0.5, 3, -1]}, (1, 0, 2), (0.5, 3, -1)),
        ({"scores": [9, 9, 9], "ratings": [0.5, 3, -1]}, (1, 0, 2), (0.5, 3, -1)),
        ({"ranks": [0, 1, 2], "scores": [5, 5, 4]}, (0, 1, 2), (5, 5, 4)),
        ({"ranks": None, "ratings": None, "scores": [1, 2, 3]}, (2, 1, 0), (1, 2, 3)),
    ],
)
def test_ranks_count_before_ratings_and_equal_ones_tie(given, ranks, ratings):
    assert ranking(ROW | given) == Comparison("p", ("a", "b", "c"), ranks, ratings)


def test_responses_to_a_dialogue():
    values = ROW | {"prompt": [{"from": "human", "value": "p"}], "ranks": [0, 1, 1]}
    assert ranking(values).prompt == (Message("user", "p"),)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ROW, "no column 'ranks', 'ratings' or 'scores'; found prompt, responses"),
        (ROW | {"ranks": [0, 1]}, "3 responses but 2 ranks"),
        (ROW | {"ranks": [0, 1, 2], "scores": [3, 2]}, "3 responses but 2 ratings"),
        (ROW | {"scores": [3, 2]}, "3 responses but 2 ranks"),
        (ROW | {"ranks": [1, 1, 1]}, "only ties"),
        (ROW | {"scores": [3, 3, 3]}, "only ties"),
        (ROW | {"scores": [3, 2, float("nan")]}, "column 'scores' holds no list of numbers"),
        (ROW | {"ratings": 3}, "column 'ratings' holds no list of numbers"),
        (ROW | {"ranks": [True, False, 1]}, "column 'ranks' holds no list of numbers"),
        (ROW | {"responses": "ab", "ranks": [0, 1]}, "column 'responses' holds no list of texts"),
        (
            ROW | {"responses": [{"text": "a"}, "b"], "ranks": [0, 1]},
            "column 'responses' holds no list of texts",
        ),
        (ROW | {"responses": ["a"], "ranks": [0]}, "1 responses, wanted at least 2"),
        (ROW | {"responses": ["a", " "], "ranks": [0, 1]}, "empty response"),
        ({"responses": ["a", "b"], "ranks": [0, 1]}, "no column 'prompt'; found responses, ranks"),
    ],
)
def test_a_ranking_that_cannot_be_used_says_why(values, expected):
    assert reason(ranking, values) == expected


def completion(response, **scores):
    return {"response": response, "model": "m"} | scores


def rated(*completions):
    return {"instruction": " Add. ", "completions": list(completions)}


def aspects(*ratings):
    names = ("helpfulness", "honesty", "truthfulness")
    return {
        name: {"Rating": rating, "Rationale": "r"}
        for name, rating in zip(names, ratings, strict=False)
    }


def test_completions_are_rated_by_their_overall_score():
    values = rated(
        completion("a", overall_score=7.5, annotations=aspects("1")),
        completion("b", overall_score=8, annotations=aspects("N/A")),
        completion("c", overall_score=7.5),
    )
    values["completions"][0]["fine-grained_score"] = 5.0
    assert rated_completions(values) == Comparison(
        "Add.", ("a", "b", "c"), (1, 0, 1), (7.5, 8, 7.5)
    )


def test_without_it_by_their_fine_grained_score():
    values = rated(
        completion("a", **{"fine-grained_score": 2.25}, overall_score=None),
        completion("b", **{"fine-grained_score": 4.0}, annotations=aspects("1")),
    )
    assert rated_completions(values) == Comparison("Add.", ("a", "b"), (1, 0), (2.25, 4))


def test_without_that_by_the_mean_of_their_aspects():
    values = rated(
        completion("a", annotations=aspects("5", "4", "1")),  # 10 / 3
        completion("b", annotations=aspects("4", 4.0, "4")),
    )
    ratings = rated_completions(values).ratings
    assert ratings == pytest.approx((3.3333333, 4))
    assert rated_completions(values).ranks == (1, 0)


def test_a_prompt_in_place_of_the_instruction():
    values = rated(completion("a", overall_score=1), completion("b", overall_score=2))
    values["prompt"] = values.pop("instruction")
    assert rated_completions(values).prompt == " Add. "


GOOD = completion("a", overall_score=3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"completions": [GOOD, GOOD]}, "no column 'instruction'; found completions"),
        ({"instruction": "i"}, "no column 'completions'; found instruction"),
        (rated("a", "b"), "column 'completions' holds no list of objects"),
        (rated(), "no completion has overall_score, fine-grained_score or annotations"),
        (
            rated(completion("a"), completion("b")),
            "no completion has overall_score, fine-grained_score or annotations",
        ),
        (rated(GOOD), "1 responses, wanted at least 2"),
        (rated(GOOD, GOOD, GOOD), "only ties"),
        (rated(GOOD, completion("", overall_score=1)), "empty response"),
        (
            rated(GOOD, {"overall_score": 1}),
            "completion 2: no column 'response'; found overall_score",
        ),
        (
            rated(GOOD, completion(None, overall_score=1)),
            "completion 2: column 'response' holds NoneType, wanted text",
        ),
        # The scales differ, so another score may not stand in.
        (
            rated(GOOD, completion("b", **{"fine-grained_score": 4.0})),
            "completion 2: no column 'overall_score'; found response, model, fine-grained_score",
        ),
        (
            rated(GOOD, completion("b", overall_score=float("nan"))),
            "completion 2: column 'overall_score' holds nan, wanted a number",
        ),
        (
            rated(GOOD, completion("b", overall_score="4")),
            "completion 2: column 'overall_score' holds '4', wanted a number",
        ),
        (
            rated(completion("b", annotations=aspects("4", "N/A"))),
            "completion 1: honesty is rated 'N/A', wanted a number",
        ),
        (
            rated(completion("b", annotations=aspects("4", "nan"))),
            "completion 1: column 'annotations' holds nan, wanted a number",
        ),
        (
            rated(completion("b", annotations={"honesty": None})),
            "completion 1: honesty is rated None, wanted a number",
        ),
        (
            rated(completion("b", annotations={})),
            "completion 1: column 'annotations' holds no ratings by aspect",
        ),
    ],
)
def test_completions_that_cannot_be_used_say_why(values, expected):
    assert reason(rated_completions, values) == expected


INFO = {"post": "My cat sings.", "title": "Help", "subreddit": "cats", "id": "t3"}
POST = "SUBREDDIT: r/cats\n\nTITLE: Help\n\nPOST: My cat sings.\n\nTL;DR:"


def summaries(*texts, choice, info=INFO):
    return {
        "info": info,
        "summaries": [{"text": text, "policy": "sup"} for text in texts],
        "choice": choice,
    }


def test_the_chosen_summary_is_better_than_all_others():
    assert chosen_summary(summaries(" a", " b", choice=1)) == Comparison(POST, (" a", " b"), (1, 0))
    assert chosen_summary(summaries(" a", " b", " c", choice=0)) == Comparison(
        POST, (" a", " b", " c"), (0, 1, 1)
    )


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (INFO, POST),
        ({"post": "Sing.", "title": None}, "POST: Sing.\n\nTL;DR:"),
        ({"post": None, "article": "News.", "title": "t"}, "Article:\nNews.\n\nTL;DR:"),
    ],
)
def test_what_is_to_be_summarised(info, expected):
    assert post_to_summarise({"info": info}) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (summaries("a", "b", choice=None), "only ties"),
        (summaries("a", "b", choice=2), "column 'choice' holds 2, wanted 0 to 1, or null"),
        (summaries("a", "b", choice=-1), "column 'choice' holds -1, wanted 0 to 1, or null"),
        (summaries("a", "b", choice=True), "column 'choice' holds True, wanted 0 to 1, or null"),
        (summaries("a", "b", choice="a"), "column 'choice' holds 'a', wanted 0 to 1, or null"),
        (summaries("a", choice=0), "1 responses, wanted at least 2"),
        (summaries("a", "", choice=0), "empty response"),
        (summaries("a", 3, choice=0), "summary 2: column 'text' holds int, wanted text"),
        ({"info": INFO, "summaries": ["a", "b"]}, "column 'summaries' holds no list of objects"),
        (
            {"info": INFO, "summaries": [{"text": "a"}, {"text": "b"}]},
            "no column 'choice'; found info, summaries",
        ),
        ({"summaries": [], "choice": None}, "no column 'info'; found summaries, choice"),
        (
            summaries("a", "b", choice=0, info={"title": "t"}),
            "column 'info' holds neither a post nor an article",
        ),
        (
            summaries("a", "b", choice=0, info="post"),
            "column 'info' holds neither a post nor an article",
        ),
        (
            summaries("a", "b", choice=0, info={"post": 3}),
            "column 'info': column 'post' holds int, wanted text",
        ),
    ],
)
def test_summaries_that_cannot_be_used_say_why(values, expected):
    assert reason(chosen_summary, values) == expected
