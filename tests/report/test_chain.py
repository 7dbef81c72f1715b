"""The report of a chain, on folders made by hand."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from hydralign.report.chain import chain_page
from hydralign.report.policies import kl_and_scores, policy_pictures
from hydralign.report.read import Curve, read_run
from hydralign.report.write import write_report

KL, SCORES = "kl/per_sequence", "reward/score"


@pytest.fixture
def own_stages(bare, tmp_path):
    """A chain of two configs of one class, neither of its name, and of one that is not there."""
    folder = tmp_path / "chain"
    for name, win_rate in (("mild", 0.25), ("strong", 0.75)):
        shutil.copytree(bare, folder / name)
        (folder / name / "metrics.json").write_text(json.dumps({"ppo/win_rate": win_rate}))
    record = {"settings": {"stage": {"chain": ["mild", "strong", "last"]}}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_stages_go_by_the_names_of_their_folders(own_stages):
    content = write_report(own_stages).read_text()
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', content)
    assert links == [("mild/report.html", "mild"), ("strong/report.html", "strong")]
    assert "<th>mild</th><th>strong</th>" in content
    assert "<td>0.250</td><td>0.750</td>" in content
    assert re.findall(r"(\w+)/ holds no run", content) == ["last"]


def test_only_rollouts_that_logged_both_have_a_place(bare):
    run = replace(read_run(bare), curves={KL: Curve([0, 1, 3], [0.5, 2.0, 9.0])})
    assert kl_and_scores(run) == ([], [])
    cut = {**run.curves, SCORES: Curve([1, 2, 3], [0.1, 0.2, 0.3])}
    assert kl_and_scores(replace(run, curves=cut)) == ([2.0, 9.0], [0.1, 0.3])


def test_curves_that_end_early_cost_no_report(bare):
    run = read_run(bare)
    without = replace(run, curves={KL: Curve([0], [0.5])})
    apart = replace(run, curves={KL: Curve([0], [0.5]), SCORES: Curve([1], [0.5])})
    uneven = replace(run, curves={KL: Curve([0, 1], [0.5, 1.0]), SCORES: Curve([1], [0.5])})
    assert chain_page(run, [without, apart])[1] == []
    assert list(policy_pictures(apart)) == []
    (shown,) = chain_page(run, [without, uneven])[1]
    assert shown.name == "score_against_root_kl"
