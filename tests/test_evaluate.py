"""Two finished policies against each other: by scorers, and by people."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hydralign.by_hand import human_win_rate
from hydralign.data_source import DataSource, drawn
from hydralign.errors import UserError
from hydralign.evaluate import Question, evaluate, table
from hydralign.finished import open_policy
from hydralign.labels.items import Submission
from hydralign.labels.samples import Sample
from hydralign.labels.store import LabelStore
from hydralign.rollout.decoding import GREEDY
from hydralign.rollout.streaming import stream_tokens
from hydralign.runs import find_policy
from hydralign.sample import Source, Wanted, sample
from scripts import evaluate as script

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def runs(finish, tmp_path):
    """A full policy and one that is an adapter."""
    finish(tmp_path / "sft", "sft", seed=1)
    finish(tmp_path / "ppo", "ppo", kind="lora", seed=2)
    return [tmp_path / "sft", tmp_path / "ppo"]


def test_a_policy_beside_itself_ties_and_the_figures_are_those_of_its_texts(runs):
    short = "{scorer: length, options: {most: 1}}"
    report = evaluate([runs[0], runs[0] / "artifact"], CONF, Question([short], prompts=7))
    assert [each["answers"] for each in report["results"]] == ["temperature 1", "greedy"]
    for each in report["results"]:
        assert (each["win_rate"], each["win_rate_low"], each["win_rate_high"]) == (0.5, 0.5, 0.5)
        assert each["score_before"] == each["score_after"]
        assert each["gain_low"] == each["gain_high"] == 0
        assert each["response_length"] == each["response_length_before"]
    assert report["prompts"] == 7


def test_scores_are_those_of_the_named_scorer_and_the_second_wins_what_it_scores_more(
    runs, finish, tmp_path
):
    finish(tmp_path / "judge", "reward")
    scorers = [str(tmp_path / "judge"), "{scorer: matches, options: {pattern: '[aeiou]'}}"]
    report = evaluate(runs, CONF, Question(scorers, prompts=9, split="train"))
    assert [(each["answers"], Path(each["scorer"]).name[:5]) for each in report["results"]] == [
        ("temperature 1", "judge"),
        ("temperature 1", "{scor"),
        ("greedy", "judge"),
        ("greedy", "{scor"),
    ]
    for each in report["results"]:
        assert each["win_rate_low"] <= each["win_rate"] <= each["win_rate_high"]
        gain = each["score_after"] - each["score_before"]
        assert each["gain_low"] - 1e-6 <= gain <= each["gain_high"] + 1e-6
    by_rule = [each for each in report["results"] if each["scorer"] == scorers[1]]
    for each in by_rule:  # of nine prompts each, a share of ninths, or of eighteenths with ties
        assert_close(each["score_after"] * 9 % 1, 0.0, rtol=0, atol=1e-5)
        assert_close(each["win_rate"] * 18 % 1, 0.0, rtol=0, atol=1e-5)
    shown = table(report)
    assert "sft" in shown
    assert "ppo wins" in shown
    assert f"{by_rule[1]['win_rate']:.3f}" in shown


def test_greedy_answers_do_not_depend_on_the_seed(runs):
    reports = [
        evaluate(runs, CONF, Question(["length"], prompts=5, seed=seed))["results"]
        for seed in (1, 2)
    ]
    lengths = [[each["response_length"] for each in results] for results in reports]
    assert lengths[0][1] == lengths[1][1]


def test_who_scored_in_training_scores_if_nobody_is_named(runs, finish, tmp_path):
    with pytest.raises(UserError, match="Nothing is known that could score.*--scorer RUN"):
        evaluate(runs, CONF, Question(prompts=3))
    finish(tmp_path / "judge", "reward")
    record = runs[1] / "run.json"
    said = json.loads(record.read_text())
    said["inputs"] = {"reward_model": str(tmp_path / "judge/artifact")}
    said["settings"]["data"]["gold"] = {"_target_": "hydralign.rewards.vader.vader_compound"}
    record.write_text(json.dumps(said))
    (runs[0] / "run.json").write_text(json.dumps(said | {"inputs": {}}))
    finish(tmp_path / "sft", "sft", seed=1)  # its settings are its own again, without gold
    found = evaluate(runs[::-1], CONF, Question(prompts=3))["results"]
    assert [Path(each["scorer"]).name for each in found] == ["judge", "gold"] * 2


@pytest.mark.parametrize("prompts", [0, -1])
def test_a_number_of_prompts_that_cannot_be(prompts):
    with pytest.raises(UserError, match=f"--prompts {prompts}: at least 1"):
        Question(["length"], prompts=prompts)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("gold", "--scorer gold: data=toy names no gold score"),
        ("reward_model", "name the folder of its run instead"),
        ("{scorer: ", "wanted a name, or {scorer: NAME, options"),
        ("{scorer: length, options: {leasst: 1}}", "length does not take"),
        ("vadr", "there is no such scorer. Did you mean vader?"),
        ("out/no", "out/no: there is no such folder"),
    ],
)
def test_scorers_that_cannot_be(runs, scorer, message):
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(runs, CONF, Question([scorer], prompts=3))


def test_templates_that_differ_are_told(finish, tmp_path):
    finish(tmp_path / "sft", "sft", seed=1)
    finish(tmp_path / "chat", "sft", seed=2, template="chat")
    finish(tmp_path / "judge", "reward")
    runs = [tmp_path / "sft", tmp_path / "chat"]
    said = r"different templates, .*\n  .*/sft: 'a .*\n  .*/chat: '\[a .*--own-templates"
    for ask in (
        lambda: evaluate(runs, CONF, Question(["length"], prompts=3)),
        lambda: sample(runs, tmp_path / "pairs.jsonl", CONF, Wanted(per_prompt=2)),
    ):
        with pytest.raises(UserError, match=re.compile(said, re.DOTALL)):
            ask()
    own = {"prompts": 3, "own_templates": True}
    assert evaluate(runs, CONF, Question(["length"], **own))["results"][0]["prompts"] == 3
    with pytest.raises(UserError, match="judge cannot score what .*/chat writes: they differ"):
        evaluate(runs, CONF, Question([str(tmp_path / "judge")], **own))


def ranked(path, rows):
    """Write rankings of A's and B's responses: (prompt, whose, ranks)."""
    lines = [
        {
            "prompt": prompt,
            "responses": [str(i) for i in range(len(whose))],
            "ranks": ranks,
            "samples": [{"artifact_id": who, "policy": f"runs/{who}"} for who in whose],
        }
        for prompt, whose, ranks in rows
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_people_prefer_what_they_rank_lower(tmp_path):
    file = ranked(
        tmp_path / "ranked.jsonl",
        [
            ("p", "AB", [2, 1]),  # B wins
            ("p", "AB", [1, 1]),  # another annotator: a tie
            ("q", "BA", [3, 1]),  # A wins
            ("r", "ABB", [2, 1, 3]),  # each has one of two pairs
            ([{"role": "user", "content": "s"}], "BA", [1, 2]),
        ],
    )
    found = human_win_rate([file])
    # 1, .5 | 0 | 1, 0 | 1
    assert found.win_rate == pytest.approx(3.5 / 6)
    assert (found.first, found.second) == ("runs/A", "runs/B")
    assert (found.prompts, found.rankings) == (4, 5)
    assert found.ties == pytest.approx(1 / 6)
    assert found.low <= found.win_rate <= found.high
    turned = human_win_rate([file], pair=["B", "A"])
    assert turned.win_rate == pytest.approx(2.5 / 6)


def test_prompts_are_drawn_whole_for_the_interval(tmp_path):
    file = ranked(tmp_path / "one.jsonl", [("p", "AB", [1, 2]), ("p", "AB", [2, 1])] * 9)
    found = human_win_rate([file])
    assert (found.low, found.high) == (0.5, 0.5)


def test_rankings_are_read_from_the_labelling_page_as_they_are(tmp_path):
    samples = [
        Sample(name, ("a", "b"), tuple({"artifact_id": who, "policy": who} for who in whose))
        for name, whose in (("p", "AB"), ("q", "BA"), ("r", "AB"))
    ]
    store = LabelStore(tmp_path / "ranked.sqlite")
    store.add(samples)
    better = {"p": "b", "q": "b"}  # B's, then A's; the third is a tie
    for _ in samples:
        shown = store.next("Ann")
        ranks = [text != better.get(shown.prompt, text) for text in shown.responses]
        store.save(Submission(shown.item, "Ann", ranks))
    store.close()
    found = human_win_rate([tmp_path / "ranked.sqlite"], pair=["A", "B"])
    assert (found.win_rate, found.prompts) == (0.5, 3)
    assert found.ties == pytest.approx(1 / 3)


def test_rankings_that_do_not_say_whose_they_are(tmp_path):
    file = tmp_path / "bare.jsonl"
    file.write_text('{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}')
    with pytest.raises(UserError, match="bare.jsonl, row 1: its samples do not say whose"):
        human_win_rate([file])
    file.write_text('{"prompt": "p", "responses": ["a", "b"]}')
    with pytest.raises(UserError, match="bare.jsonl: no ranking yet"):
        human_win_rate([file])
    with pytest.raises(UserError, match="gone.sqlite: there is no such file"):
        human_win_rate([tmp_path / "gone.sqlite"])
    three = ranked(tmp_path / "three.jsonl", [("p", "ABC", [1, 2, 3])])
    with pytest.raises(UserError, match=r"3 policies \(runs/A, runs/B, runs/C\)"):
        human_win_rate([three])
    assert human_win_rate([three], pair=["C", "B"]).win_rate == 1
    with pytest.raises(UserError, match="three.jsonl: no responses of D, only of runs/A"):
        human_win_rate([three], pair=["A", "D"])
    apart = ranked(tmp_path / "apart.jsonl", [("p", "AA", [1, 2]), ("q", "BB", [1, 2])])
    with pytest.raises(UserError, match="no prompt was answered by both"):
        human_win_rate([apart])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": [{"model": "a"}, {"model": "b"}]}, "do not say whose"),
        ({"samples": "ab"}, "do not say whose"),
        ({"ranks": [1, 2, 3]}, "3 ranks, but 2 samples"),
        ({"ranks": ["1", "2"]}, "no list of numbers"),
    ],
)
def test_rankings_of_another_kind_are_told_by_their_row(tmp_path, change, message):
    file = ranked(tmp_path / "ranked.jsonl", [("p", "AB", [2, 1]), ("q", "AB", [2, 1])])
    first, second = map(json.loads, file.read_text().splitlines())
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second | change)}\n")
    with pytest.raises(UserError, match=f"ranked.jsonl, row 2: .*{message}"):
        human_win_rate([file])


def test_an_empty_answer_loses_and_two_alike_tie(runs, tmp_path, monkeypatch):
    """Nobody is shown such a pair, and it counts all the same."""
    said = {"sft": ["", "a", "b ", ""], "ppo": ["x", " ", "b", ""]}  # ppo wins, loses, and two ties

    def answer(source, prompts, seed):
        return [[(text, True)] for text in said[source.policy.run.stage]]

    monkeypatch.setattr(Source, "answer", answer)
    pairs = tmp_path / "pairs.jsonl"
    sample(runs, pairs, CONF, Wanted(per_prompt=2, prompts=4, as_drawn=True))
    assert pairs.read_text() == ""
    found = human_win_rate([tmp_path / "pairs.left_out.jsonl"])
    assert (found.win_rate, found.ties, found.prompts) == (0.5, 0.5, 4)
    said["sft"][1] = "  "
    sample(runs, tmp_path / "more.jsonl", CONF, Wanted(per_prompt=2, prompts=4, as_drawn=True))
    assert human_win_rate([tmp_path / "more.left_out.jsonl"]).win_rate == 0.625
    people = ranked(tmp_path / "people.jsonl", [])
    people.write_text(json.dumps(asked_of_people(runs)))
    both = human_win_rate([people, tmp_path / "more.left_out.jsonl"])
    assert (both.win_rate, both.prompts) == (0.7, 5)  # 3.5 of 5


def asked_of_people(runs):
    """One row, in which the second run is preferred."""
    samples = [{"artifact_id": run.manifest.id, "policy": "x"} for run in map(find_policy, runs)]
    return {"prompt": "new", "responses": ["u", "v"], "ranks": [2, 1], "samples": samples}


def test_pairs_for_people_come_back_as_a_win_rate(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hydralign.run.quieten_libraries", lambda: None)
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out" / "evaluation.json"
    named = [str(run) for run in runs]
    script.main([*named, "--by-hand", str(pairs), "--prompts", "12"])
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    left_out = tmp_path / "pairs.left_out.jsonl"
    settled = left_out.read_text().splitlines() if left_out.exists() else []
    assert rows
    assert len(rows) + len(settled) == 12
    for row in rows:
        assert [Path(each["policy"]).parent.name for each in row["samples"]] == ["sft", "ppo"]
    (tmp_path / "ranked.jsonl").write_text(
        "\n".join(
            json.dumps(row | {"ranks": [2, 1] if i else [1, 1]}) for i, row in enumerate(rows)
        )
    )
    script.main([*named, "--ranked", str(tmp_path / "ranked.jsonl"), "--out", str(out)])
    said = json.loads(out.read_text())
    assert said["win_rate"] == pytest.approx(1 - 0.5 / len(rows))
    assert "is preferred to" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--ranked", "mine.jsonl"], ["a", "b"]])
def test_what_others_have_written_is_not_replaced(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    mine = ranked(tmp_path / "mine.jsonl", [("p", "AB", [2, 1])])
    store = LabelStore(tmp_path / "rankings.sqlite")
    store.close()
    (tmp_path / "evaluation.json").write_text('{"scores": [1, 2]}')  # of a run
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("mine.jsonl", "rankings.sqlite", "evaluation.json", "."):
        with pytest.raises(UserError, match=rf"{name} is there, and no evaluation.*--out FILE"):
            script.main([*arguments, "--out", name])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    script.main(["--ranked", str(mine)])
    script.main(["--ranked", str(mine)])  # its own it may
    assert json.loads((tmp_path / "ranked.json").read_text())["win_rate"] == 1
    assert (tmp_path / "evaluation.json").read_text() == '{"scores": [1, 2]}'


def test_a_disk_that_takes_no_evaluation_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    mine = ranked(tmp_path / "mine.jsonl", [("p", "AB", [2, 1])])
    with pytest.raises(UserError, match=r"Cannot write .*: a file stands where.* --out FILE"):
        script.main(["--ranked", str(mine), "--out", str(tmp_path / "taken" / "out.json")])


def test_the_command_line_wants_two_runs(capsys):
    for arguments in (["one"], ["a", "b", "c"], ["a", "--ranked", "file"]):
        with pytest.raises(SystemExit):
            script.main(arguments)
        assert "wanted 2" in capsys.readouterr().err


def test_the_answers_are_those_of_the_policy(runs):
    """The mean length of greedy answers, counted token by token."""
    report = evaluate(runs, CONF, Question(["length"], prompts=4, split="train"))
    policy = open_policy(runs[0])
    prompts = drawn(DataSource(policy.config.data).records("prompt").train, 4)
    encoder, lengths = policy.encoder(), []
    for prompt in prompts:
        ids = encoder.prompt_ids(prompt.prompt)
        generator = torch.Generator()
        tokens = stream_tokens(policy.role, ids, policy.codec, GREEDY, generator, most=6)
        lengths.append(len(list(tokens)))
    assert report["results"][1]["response_length_before"] == pytest.approx(sum(lengths) / 4)
