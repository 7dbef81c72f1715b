"""The HTTP interface: what it answers, and that nothing is lost or doubled under load."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from hydralign.data.label_database import read_rankings
from hydralign.labels.api import labelling_app
from hydralign.labels.samples import Sample
from hydralign.labels.store import LabelStore

from .conftest import samples, served

ROOT = Path(__file__).parents[2]
HALF_A_PAIR = r'{"annotator": "\ud800", "item": 1, "ranks": [0, 1]}'
"""JSON that is text to Python, and cannot be written as UTF-8."""


@pytest.fixture
def client(store):
    store.add([Sample("p", ("a", "b"), ({"policy": "secret"}, {"policy": "hidden"}))])
    with served(labelling_app(store)) as url, httpx.Client(base_url=url) as client:
        yield client


def test_from_an_item_to_its_ranking_and_back(client, store):
    handed = client.get("/api/next", params={"annotator": "Ann"})
    assert "secret" not in handed.text
    item = handed.json()["item"]
    assert handed.json()["undo"] is None
    ranks = [int(text == "a") for text in item["responses"]]  # b is better
    body = {"annotator": "Ann", "item": item["item"], "ranks": ranks, "token": "t", "note": "n"}
    saved = client.post("/api/rankings", json=body).json()
    assert client.post("/api/rankings", json=body).json() == saved
    assert read_rankings(store.file)[0].values["ranks"] == [1, 0]
    after = client.get("/api/next", params={"annotator": "Ann"}).json()
    assert after == {"item": None, "undo": saved["ranking"]}
    undo = {"annotator": "Ann", "ranking": saved["ranking"]}
    back = client.post("/api/undo", json=undo).json()
    assert back == {"item": item | {"ranks": ranks, "note": "n"}, "undo": None}
    assert client.get("/api/progress").json()["rankings"] == 0
    other = client.post("/api/rankings", json=body | {"content": "0" * 64, "token": "u"})
    assert other.status_code == 409
    assert "is another one than was ranked" in other.json()["error"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annotator": ""}, "name is empty"),
        ({"annotator": None}, "annotator: wanted a text"),
        ({"item": "1"}, "item: wanted a whole number"),
        ({"item": 10**30}, "item: wanted a whole number"),
        ({"item": 7}, "There is no item 7"),
        ({"ranks": [0]}, "has 2 responses, but 1 ranks"),
        ({"ranks": [0, True]}, "ranks: wanted a list of numbers"),
        ({"ranks": "01"}, "ranks: wanted a list of numbers"),
        ({"ranks": [0, 10**400]}, "ranks: wanted a list of numbers"),
        ({"seconds": "fast"}, "seconds: wanted a number"),
        ({"note": 3}, "note: wanted a text"),
    ],
)
def test_what_is_asked_wrongly_gets_400_and_the_reason(client, store, changed, said):
    body = {"annotator": "Ann", "item": 1, "ranks": [0, 1]} | changed
    answer = client.post("/api/rankings", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert read_rankings(store.file) == []


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"content": "{", "headers": {"Content-Type": "application/json"}}, "is not JSON"),
        (
            {"content": HALF_A_PAIR, "headers": {"Content-Type": "application/json"}},
            "annotator: wanted a text",
        ),
        ({"json": [1]}, "holds list, wanted an object"),
        ({"content": "{}", "headers": {"Content-Type": "text/plain"}}, "Content-Type"),
        ({"data": {"annotator": "Ann"}}, "Content-Type"),
        ({"json": {"note": "x" * 1_000_001}}, "longer than"),
        ({"json": {"annotator": "Ann", "item": 1}}, "ranks: wanted"),
    ],
)
def test_requests_of_another_kind(client, sent, said):
    answer = client.post("/api/rankings", **sent)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_database_that_is_busy_is_to_be_asked_again(client, store):
    store._database.execute("PRAGMA query_only = 1")
    answer = client.get("/api/next", params={"annotator": "Ann"})
    assert answer.status_code == 503
    assert "cannot be written" in answer.json()["error"]


@pytest.mark.parametrize(
    ("clients", "each"), [(4, 25), pytest.param(10, 200, marks=pytest.mark.slow)]
)
def test_many_at_once_save_every_ranking_once(tmp_path, clients, each):
    """Clients rank items side by side; every fifth is sent twice, as after a lost answer."""
    store = LabelStore(tmp_path / "l.sqlite")
    store.add(samples(clients * each))  # more than enough: the last one must not be one's own
    store.share_out(1.0, 2)
    seen = [[] for _ in range(clients)]

    def annotate(number, url):
        name = f"annotator {number}"
        with httpx.Client(base_url=url, timeout=60) as client:
            for step in range(each):
                item = client.get("/api/next", params={"annotator": name}).json()["item"]
                body = {"annotator": name, "item": item["item"], "ranks": [0, 1, 2]}
                body["token"] = f"{number} {step}"
                for _ in range(1 if step % 5 else 2):
                    assert client.post("/api/rankings", json=body).status_code == 200
                seen[number].append(item["item"])

    with served(labelling_app(store)) as url:
        threads = [threading.Thread(target=annotate, args=(n, url)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store.close()
    saved = Counter(
        (row.values["annotator"], row.values["prompt"])
        for row in read_rankings(tmp_path / "l.sqlite")
    )
    sent = Counter(
        (f"annotator {number}", f"prompt {item - 1}")
        for number, items in enumerate(seen)
        for item in items
    )
    assert saved == sent
    assert set(saved.values()) == {1}
    assert saved.total() == clients * each
    assert set(Counter(prompt for _, prompt in saved).values()) <= {1, 2}


def start(file):
    """Start the page as a user would; returns the process and the address."""
    command = [sys.executable, "scripts/label.py", "serve", str(file), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return process, re.search(r"http://\S+/", process.stdout.readline()).group()


def test_a_server_that_is_killed_has_lost_nothing_that_it_confirmed(tmp_path):
    store = LabelStore(tmp_path / "l.sqlite")
    store.add(samples(400))
    store.close()
    confirmed = []
    for _ in range(2):
        before = len(confirmed)
        process, url = start(tmp_path / "l.sqlite")
        # Not between two requests: while one is being answered, whichever that is.
        killer = threading.Timer(0.002, os.kill, (process.pid, signal.SIGKILL))
        with httpx.Client(base_url=url) as client:
            try:
                while True:
                    if len(confirmed) == before + 20:
                        killer.start()
                    item = client.get("/api/next", params={"annotator": "Ann"}).json()["item"]
                    body = {"annotator": "Ann", "item": item["item"], "ranks": [0, 1, 2]}
                    saved = client.post("/api/rankings", json=body)
                    confirmed.append(saved.json()["ranking"])
            except httpx.TransportError:
                pass
        assert process.wait(10) == -signal.SIGKILL
        process.stdout.close()
        assert len(confirmed) >= before + 20
    rows = read_rankings(tmp_path / "l.sqlite")
    numbers = [row.number for row in rows]
    assert set(confirmed) <= set(numbers)
    assert len(numbers) <= len(confirmed) + 2  # saved, and killed before the answer
    assert len({row.values["prompt"] for row in rows}) == len(rows)
