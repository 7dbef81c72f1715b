import inspect
from pathlib import Path

import datasets
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from hydralign.data.records import RECORD_KINDS
from hydralign.data.splits import HashSplitter
from hydralign.data.templates import check_template

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "data").glob("*.yaml"))


def config(name, *overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(overrides=[f"+data={name}", *overrides]).data


def test_no_data_set_goes_untested():
    shipped = {"alpaca", "gsm8k", "hh_rlhf", "jsonl", "movie_reviews", "product_reviews"}
    shipped |= {"labels", "ultrafeedback"}
    assert shipped <= set(NAMES)  # a new data set is one more file, not a change here


@pytest.mark.parametrize("name", NAMES)
def test_every_target_exists_and_takes_its_options(name):
    data = OmegaConf.to_container(config(name), resolve=False)
    assert data["name"] == name
    assert set(data["records"]) <= set(RECORD_KINDS)
    for node in [data["source"], *data["records"].values()]:
        options = {key: value for key, value in node.items() if not key.startswith("_")}
        assert node["_partial_"] is True
        inspect.signature(get_method(node["_target_"])).bind_partial(**options)
    HashSplitter(data["splits"])
    check_template(data.get("template", "chat"))


def test_a_file_of_ones_own_is_read_by_the_config(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    data = config("jsonl", f"data.path={tmp_path}/mine.jsonl")
    (row,) = instantiate(data.source)()
    assert row.values == {"prompt": "a", "response": "b"}


def test_product_reviews_say_only_the_difference():
    parent, child = config("movie_reviews"), config("product_reviews")
    differing = [key for key in parent if parent[key] != child[key]]
    assert differing == ["name", "source"]
    assert child.source.member == "amazonReviewSnippets_GroundTruth.txt"


def test_ultrafeedback_reads_the_hub_and_is_only_a_yaml():
    data, own = config("ultrafeedback"), config("jsonl", "data.path=x")
    assert (data.source.path, list(data.source.columns)) == (
        "openbmb/UltraFeedback",
        ["instruction", "completions"],
    )
    assert (data.source._target_, data.records) == (own.source._target_, own.records)


def test_a_data_set_of_the_hub_in_a_known_form_needs_only_its_split(monkeypatch):
    asked = []
    rows = [{"prompt": "a", "chosen": " b", "rejected": " c"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or rows)
    data = config("jsonl", "data.path=some/pairs", "+data.source.split=train_prefs")
    (row,) = instantiate(data.source)()
    assert (row.number, row.values) == (1, rows[0])
    assert asked == [(("some/pairs",), {"split": "train_prefs"})]
