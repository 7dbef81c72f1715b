"""The page: its interface, and in a real browser. `CHAT_PICTURES=DIR` keeps pictures of it."""

import json
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from hydralign.chat.api import chat_app
from hydralign.rollout.decoding import GREEDY, Decoding
from hydralign.talk import open_speakers
from hydralign.web.guard import Guard
from hydralign.web.server import listen

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PICTURES = os.environ.get("CHAT_PICTURES")
HOW = {"temperature": 1.0, "top_p": 1.0, "top_k": None, "seed": 3}


class Parrot:
    """Says given pieces, and keeps what it was asked."""

    def __init__(self, name, *pieces, pause=0.0):
        self.name, self.pieces, self.pause = name, pieces, pause
        self.asked, self.came = [], 0

    def answer(self, turns, decoding, seed):
        self.asked.append(([(turn.role, turn.content) for turn in turns], decoding, seed))
        return self._say()

    def _say(self):
        for piece in self.pieces:
            time.sleep(self.pause)
            self.came += 1
            yield piece


def asked(*texts, **changes):
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": text}
        for place, text in enumerate(texts)
    ]
    return {"speaker": 0, "turns": turns} | HOW | changes


@contextmanager
def served(app):
    with listen("127.0.0.1", 0) as listener:
        guarded = Guard(app, host="127.0.0.1", token=None)
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_an_answer_is_what_the_policy_writes(finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    speakers = open_speakers([tmp_path])
    client = TestClient(chat_app(speakers, Decoding(0.5, top_k=4), seed=9))
    about = client.get("/api/speakers").json()
    expected = {"speakers": ["sft"], "temperature": 0.5, "top_p": 1.0, "top_k": 4, "seed": 9}
    assert about == expected
    answer = client.post("/api/answer", json=asked("xy", temperature=0))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    again = client.post("/api/answer", json=asked("xy", temperature=0, seed=4))
    turns = [type("T", (), {"role": "user", "content": "xy"})]
    assert answer.text == again.text == "".join(speakers[0].answer(turns, GREEDY, 0))


def test_the_dialogue_and_the_settings_arrive():
    parrot = Parrot("polly", "hé", "llo")
    client = TestClient(chat_app([Parrot("other"), parrot], Decoding()))
    body = asked("a", "b", "c", speaker=1, top_p=0.5, top_k=3)
    assert client.post("/api/answer", json=body).text == "héllo"
    dialogue = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert parrot.asked == [(dialogue, Decoding(1.0, top_p=0.5, top_k=3), 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker": 1}, "speaker: wanted a whole number from 0 to 0"),
        ({"turns": "xy"}, "turns: wanted a list"),
        ({"turns": [{"role": "king", "content": "x"}]}, "turns: wanted a list"),
        ({"turns": [{"role": "user", "content": 3}]}, "turns: wanted a list"),
        ({"turns": [{"role": "user", "content": "\ud800"}]}, "turns: wanted a list"),
        ({"turns": []}, "the last one must be the user's"),
        ({"turns": [{"role": "assistant", "content": "x"}]}, "the last one must be the user's"),
        ({"temperature": "hot"}, "temperature: wanted a number"),
        ({"temperature": -1}, "temperature -1: at least 0"),
        ({"temperature": 10**400}, "temperature: wanted a number"),
        ({"top_p": float("nan")}, "top_p: wanted a number"),
        ({"top_k": 0.5}, "top_k: wanted a whole number"),
        ({"seed": True}, "seed: wanted a whole number"),
    ],
)
def test_what_is_asked_wrongly_is_refused(changes, message):
    client = TestClient(chat_app([Parrot("polly", "hello")], Decoding()))
    body = json.dumps(asked("xy") | changes)
    answer = client.post("/api/answer", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_whoever_hangs_up_stops_the_answer():
    parrot = Parrot("polly", *"abcdefghij" * 20, pause=0.02)
    with served(chat_app([parrot], Decoding())) as url:
        with httpx.stream("POST", f"{url}/api/answer", json=asked("xy")) as answer:
            assert next(answer.iter_text()).startswith("a")
        time.sleep(0.3)
        came = parrot.came
        time.sleep(0.2)
        assert parrot.came == came < 100
        parrot.pieces = ("done",)  # and the next one is answered
        assert httpx.post(f"{url}/api/answer", json=asked("xy")).text == "done"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@contextmanager
def opened(browser, url, **look):
    context = browser.new_context(viewport={"width": 1100, "height": 700}, **look)
    page = context.new_page()
    page.set_default_timeout(5000)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_function("() => document.querySelector('#temperature').value !== ''")
    yield page
    context.close()
    assert complaints == []


def say(page, text):
    page.fill("#text", text)
    page.keyboard.press("Enter")


def answered(page, n):
    """Wait until all is said; return the texts of the last answers."""
    page.wait_for_selector("#send:visible")
    return page.locator(".answered .text").all_inner_texts()[-n:]


def picture(page, name):
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_two_answer_side_by_side_and_markup_is_text(browser):
    bad = (
        "<script>window.bad = 1</script><b>bold</b> <img src=x onerror='window.bad = 1'>\n\nand on"
    )
    left, right = Parrot("sft", "A ", "naïve ", "answer 🙂"), Parrot("ppo", *bad)
    with served(chat_app([left, right], Decoding())) as url, opened(browser, url) as page:
        say(page, "Is <i>this</i> text?")
        assert answered(page, 2) == ["A naïve answer 🙂", bad]
        assert page.locator(".asked .text").inner_text() == "Is <i>this</i> text?"
        assert page.evaluate("window.bad") is None
        assert page.locator("#dialogue b, #dialogue i, #dialogue img").count() == 0
        assert page.locator(".who").all_inner_texts() == ["you", "sft", "ppo"]
        page.fill("#temperature", "0.5")
        page.fill("#top_k", "7")
        say(page, "And again?")
        answered(page, 2)
        picture(page, "chat-page")
        dialogue, decoding, seed = right.asked[1]
        assert [content for _, content in dialogue] == ["Is <i>this</i> text?", bad, "And again?"]
        assert (decoding, seed) == (Decoding(0.5, top_k=7), 1)
        page.click("#reset")
        say(page, "Anew")
        answered(page, 2)
        assert left.asked[2][0] == [("user", "Anew")]


def test_escape_stops_and_what_came_stays(browser):
    slow = Parrot("slow", *["word "] * 300, pause=0.02)
    with served(chat_app([slow], Decoding())) as url, opened(browser, url) as page:
        say(page, "Go on")
        page.wait_for_function(
            "() => document.querySelector('.answered .text').textContent.length > 20"
        )
        page.keyboard.press("Escape")
        (text,) = answered(page, 1)
        assert 3 <= text.count("word") < 250
        slow.pieces = ("done",)
        say(page, "And now?")
        assert answered(page, 1) == ["done"]
        assert slow.asked[1][0][1][1].startswith("word word word ")


def test_reset_forgets_an_answer_that_is_still_being_said(browser):
    slow = Parrot("slow", *["word "] * 300, pause=0.02)
    with served(chat_app([slow], Decoding())) as url, opened(browser, url) as page:
        say(page, "Go on")
        page.wait_for_function(
            "() => document.querySelector('.answered .text')?.textContent.length > 20"
        )
        page.click("#reset")
        page.wait_for_selector("#send:visible")
        assert page.locator(".turn").count() == 0
        slow.pieces = ("done",)
        say(page, "Anew")
        assert answered(page, 1) == ["done"]
        assert slow.asked[1][0] == [("user", "Anew")]


def test_mistakes_are_told_and_leave_the_dialogue_as_it_was(browser, finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    app = chat_app(open_speakers([tmp_path]), Decoding())
    with served(app) as url, opened(browser, url) as page:
        say(page, "x" * 99)
        page.wait_for_selector("#trouble:visible")
        assert "Say it in fewer words" in page.locator("#trouble").inner_text()
        assert page.input_value("#text") == "x" * 99
        assert page.locator(".turn").count() == 0
        say(page, "xy")
        answered(page, 1)
        assert page.locator("#trouble:visible").count() == 0
        assert page.locator(".turn").count() == 2
