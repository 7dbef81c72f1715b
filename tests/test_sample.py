"""Sampling for people to rank: what a row holds, and going on after a stop."""

import fcntl
import json
from pathlib import Path

import pytest

from hydralign import sample as sampling
from hydralign.data.own_records import FORMS
from hydralign.errors import UserError
from hydralign.finished import open_policies
from hydralign.runs import find_policy
from hydralign.sample import Wanted, deal, rows_of, sample
from hydralign.sample_file import SampleFile, left_out_of

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(sampling, "PROMPTS_AT_A_TIME", 7)


@pytest.fixture
def runs(finish, tmp_path):
    """The folders of two policies."""
    finish(tmp_path / "sft", "sft", seed=1)
    finish(tmp_path / "ppo", "ppo", seed=2)
    return [tmp_path / "sft", tmp_path / "ppo"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_says_of_each_response_where_it_comes_from(runs, tmp_path):
    out = tmp_path / "new" / "samples.jsonl"
    sample(runs, out, CONF, Wanted(per_prompt=5, temperatures=(0.5, 2.0), prompts=9, seed=3))
    found = lines(out)
    assert 7 < len(found) <= 9
    assert len({row["prompt"] for row in found}) == len(found)
    for row in found:
        assert len(row["responses"]) == len(row["samples"]) > 1
        assert len({response.strip() for response in row["responses"]} - {""}) == len(
            row["responses"]
        )
    whole = next(row for row in found if len(row["responses"]) == 5)
    told = [(Path(each["policy"]).parent.name, each["temperature"]) for each in whole["samples"]]
    assert told == [("sft", 0.5), ("sft", 0.5), ("sft", 2.0), ("ppo", 0.5), ("ppo", 2.0)]
    assert whole["samples"][0]["artifact_id"] == find_policy(runs[0]).manifest.id
    assert {type(each["finished"]) for each in whole["samples"]} == {bool}
    # With ranks it is a row of data=jsonl.
    ranked = FORMS["responses"].comparison(whole | {"ranks": [1, 2, 2, 4, 5]})
    assert ranked.responses == tuple(whole["responses"])


def both_texts(path):
    """What is to be ranked, and what leaves nothing to rank."""
    files = [path, left_out_of(path)]
    return [file.read_text() if file.exists() else "" for file in files]


@pytest.mark.parametrize("as_drawn", [False, True])
def test_a_stopped_file_ends_as_one_that_was_not(runs, tmp_path, monkeypatch, as_drawn):
    wanted = Wanted(per_prompt=2 if as_drawn else 3, prompts=20, as_drawn=as_drawn)
    sample(runs, tmp_path / "whole.jsonl", CONF, wanted)
    add, done = SampleFile.add, []

    def stop(file, rows):
        if len(done) == 2:
            for path in (file.path, left_out_of(file.path)):
                with path.open("a") as half:
                    half.write('{"prompt": "half a li')
            raise KeyboardInterrupt
        done.append(add(file, rows))

    out = tmp_path / "stopped.jsonl"
    monkeypatch.setattr(SampleFile, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(runs, out, CONF, wanted)
    monkeypatch.setattr(SampleFile, "add", add)
    assert all(text.endswith("half a li") for text in both_texts(out))
    for _ in range(2):
        sample(runs, out, CONF, wanted)
        assert both_texts(out) == both_texts(tmp_path / "whole.jsonl")
    assert both_texts(out)[1] or not as_drawn


def test_a_file_of_other_settings_is_left_alone(runs, tmp_path):
    out = tmp_path / "samples.jsonl"
    sample(runs, out, CONF, Wanted(prompts=3))
    before = out.read_text()
    with pytest.raises(UserError, match=r"other settings: .*temperature was 1.0, is 0.5"):
        sample(runs, out, CONF, Wanted(prompts=3, temperatures=(0.5,)))
    with pytest.raises(UserError, match=r"other settings: prompts.digest was"):
        sample(runs, out, CONF, Wanted(prompts=4))
    assert out.read_text() == before
    out.write_text(before[:-5])
    with pytest.raises(UserError, match="has been cut since"):
        sample(runs, out, CONF, Wanted(prompts=3))
    Path(f"{out}.json").unlink()
    with pytest.raises(UserError, match="which says how it was made, is not"):
        sample(runs, out, CONF, Wanted(prompts=3))


def test_other_prompts_can_be_chosen(runs, tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(json.dumps({"prompt": f"wxyz {i}" * i}) + "\n" for i in range(1, 12)))
    out = tmp_path / "out.jsonl"
    sample(runs, out, CONF, Wanted(data=["data=jsonl", f"data.path={mine}"], split="all"))
    assert {row["prompt"] for row in lines(out)} == {f"wxyz {i}" * i for i in range(1, 12)}
    again = tmp_path / "again.jsonl"
    limit = "data.max_prompt_tokens=15"  # <bos>, and six letters to each
    sample(runs, again, CONF, Wanted(data=[f"data.path={mine}", limit], split="all"))
    assert {row["prompt"] for row in lines(again)} == {"wxyz 1", "wxyz 2wxyz 2"}
    with pytest.raises(UserError, match="seed=1: only data can be chosen here"):
        sample(runs, out, CONF, Wanted(data=["seed=1"]))
    with pytest.raises(UserError, match=r"data=jsonl needs a file of yours"):
        sample(runs, out, CONF, Wanted(data=["data=jsonl"]))


def test_a_file_of_prompts_that_has_gone_is_told(runs, tmp_path):
    gone = ["data.path=gone.jsonl"]
    with pytest.raises(UserError, match="gone.jsonl"):
        sample(runs, tmp_path / "out.jsonl", CONF, Wanted(data=gone))


def test_a_prompt_without_two_responses_that_differ_is_left_out(runs, tmp_path):
    cold = Wanted(per_prompt=2, temperatures=(1e-6,), prompts=5)  # always the same response
    out = tmp_path / "cold.jsonl"
    sample(runs[:1], out, CONF, cold)
    assert out.read_text() == ""
    assert json.loads(Path(f"{out}.json").read_text())["left_out"] == 5
    left_out = lines(tmp_path / "cold.left_out.jsonl")
    assert len(left_out) == 5
    assert all(len(row["responses"]) == len(row["ranks"]) < 2 for row in left_out)


def test_two_processes_do_not_write_one_file(runs, tmp_path):
    out = tmp_path / "samples.jsonl"
    sample(runs, out, CONF, Wanted(prompts=3))
    before = out.read_text()
    with out.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"Another process is writing .*samples.jsonl"):
            sample(runs, out, CONF, Wanted(prompts=3))
    assert out.read_text() == before
    sample(runs, out, CONF, Wanted(prompts=3))


def test_more_responses_than_the_page_shows_are_told_before_they_are_sampled(
    runs, tmp_path, caplog
):
    sample(runs, tmp_path / "out.jsonl", CONF, Wanted(prompts=1, per_prompt=9))
    assert "at most" not in caplog.text
    sample(runs, tmp_path / "more.jsonl", CONF, Wanted(prompts=1, per_prompt=10))
    assert "--per-prompt 10: scripts/label.py shows at most 9" in caplog.text


def test_a_name_that_nobody_reads_rows_by_is_told(runs, tmp_path):
    with pytest.raises(UserError, match=r"out.txt: the name must end in .jsonl"):
        sample(runs, tmp_path / "out.txt", CONF, Wanted(prompts=1))


def test_a_disk_that_takes_no_samples_is_told(runs, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"Cannot write .*: a file stands where.* --out FILE"):
        sample(runs, tmp_path / "taken" / "out.jsonl", CONF, Wanted(prompts=1))


def test_responses_that_are_there_already_are_drawn_again(runs):
    policy = open_policies([find_policy(runs[0])])[0]
    (source,) = deal([policy], [policy.encoder()], [1.0], 2)
    (prompt,) = [type("P", (), {"prompt": "xy", "answer": None})]

    def responses(**how):
        return [rows_of([source], [prompt], n, seed=0, **how)[0]["responses"] for n in range(30)]

    drawn, different = responses(as_drawn=True), responses(as_drawn=False)
    assert {len(each) for each in drawn} == {2}
    assert any(not text.strip() for pair in drawn for text in pair)
    told = [{text.strip() for text in each} - {""} for each in drawn]
    assert sum(map(len, different)) > sum(map(len, told))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_prompt": 3, "temperatures": (0.5, 1.0)}, r"3 is too few: 2 policies at 2 temp.* 4"),
        ({"temperatures": (0.0,)}, "each must be above 0"),
        ({"prompts": 0}, "at least 1"),
    ],
)
def test_wishes_that_cannot_be_met(runs, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        sample(runs, tmp_path / "out.jsonl", CONF, Wanted(**settings))
