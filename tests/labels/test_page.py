"""The labelling page in a real browser. `LABEL_PICTURES=DIR` keeps pictures of it."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from hydralign.data.label_database import read_rankings
from hydralign.data.records import Message
from hydralign.labels.api import labelling_app
from hydralign.labels.progress import progress
from hydralign.labels.samples import Sample
from hydralign.labels.store import LabelStore

from .conftest import samples, served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PICTURES = os.environ.get("LABEL_PICTURES")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@contextmanager
def opened(browser, url, name="Ann", width=1280, height=800, **look):
    """A fresh browser window on the page; it must not complain of anything."""
    context = browser.new_context(viewport={"width": width, "height": height}, **look)
    page = context.new_page()
    page.set_default_timeout(5000)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text))  # what the policy forbids, too
    page.goto(url)
    if name:
        page.fill("#name", name)
        page.keyboard.press("Enter")
        page.wait_for_selector(".card, #done:visible")
    yield page
    context.close()
    on_purpose = ("ERR_FAILED", "status of 400", "status of 409")
    assert [said for said in complaints if not any(map(said.count, on_purpose))] == []


def texts(page):
    return page.locator(".card .text").all_inner_texts()


def prompt(page):
    return page.locator(".turn").inner_text().removeprefix("Prompt").strip()


def go_on(page, act):
    """Do something that brings another item."""
    before = prompt(page)
    act()
    page.wait_for_function(
        "before => document.querySelector('#task').hidden || "
        "!document.querySelector('#prompt').innerText.endsWith(before)",
        arg=before,
    )


def picture(page, name):
    if PICTURES:
        page.wait_for_timeout(300)  # for what comes in beside: the progress
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def best_first_by_keyboard(page):
    for key in ("2", "1", "3", "4", "Enter"):
        page.keyboard.press(key)
    return [1, 0, 2, 3]


def tie_by_shift(page):
    for key in ("4", "Shift+Digit2", "Numpad1", "Enter"):  # the third is left and comes last
        page.keyboard.press(key)
    return [2, 0, 3, 0]


def tie_by_key_and_back(page):
    for key in ("1", "=", "3", "4", "Backspace", "2", "4", "Enter"):
        page.keyboard.press(key)
    return [0, 2, 0, 3]


def second_thoughts(page):
    for key in ("1", "2", "1", "3", "1", "4", "Enter"):  # the first again: it has no place then
        page.keyboard.press(key)
    return [2, 0, 1, 3]


def by_mouse(page):
    for number in (3, 2, 4, 1):
        page.click(f".card >> nth={number - 1}")
    page.click("#save")
    return [3, 1, 0, 2]


def tie_by_mouse(page):
    page.click(".card >> nth=0")
    page.click(".card >> nth=1", modifiers=["Shift"])
    page.click("#tie")
    page.click(".card >> nth=2")
    page.click("#save")
    return [0, 0, 0, 3]


WAYS = [best_first_by_keyboard, tie_by_shift, tie_by_key_and_back, second_thoughts]
WAYS += [by_mouse, tie_by_mouse]


def test_thirty_rankings_by_keyboard_and_mouse(browser, store):
    store.add(samples(30, k=4))
    expected = {}
    with served(labelling_app(store)) as url, opened(browser, url) as page:
        for number in range(30):
            asked, shown, ranks = prompt(page), texts(page), []
            go_on(page, lambda number=number, ranks=ranks: ranks.extend(WAYS[number % 6](page)))
            expected[asked] = dict(zip(shown, ranks, strict=True))
        assert page.is_visible("#done")
        page.wait_for_function(
            "document.querySelector('#counts').innerText == 'you 30 · all 30 of 30'"
        )
    found = {
        row.values["prompt"]: dict(zip(row.values["responses"], row.values["ranks"], strict=True))
        for row in read_rankings(store.file)
    }
    assert found == expected


def test_skip_undo_and_a_note(browser, store):
    store.add(samples(4))
    with served(labelling_app(store)) as url, opened(browser, url) as page:
        first, shown = prompt(page), texts(page)
        for key in ("1", "Shift+Digit2", "3"):
            page.keyboard.press(key)
        assert page.locator(".place").all_inner_texts() == ["=1st", "=1st", "3rd"]
        assert page.inner_text("#order").split() == ["1=2>3"]
        for _ in range(3):
            page.keyboard.press("Backspace")
        for key in ("n", "h", "m", " ", "3", "Enter", "3", "1", "2"):  # letters go into the note
            page.keyboard.press(key)
        go_on(page, lambda: page.keyboard.press("Enter"))
        assert page.input_value("#note") == ""
        go_on(page, lambda: page.keyboard.press("u"))
        assert (prompt(page), texts(page)) == (first, shown)
        assert page.input_value("#note") == "hm 3"
        assert page.locator(".place").all_inner_texts() == ["2nd", "3rd", "1st"]
        assert read_rankings(store.file) == []
        page.keyboard.press("Backspace")
        page.keyboard.press("Shift+Digit2")
        go_on(page, lambda: page.keyboard.press("Enter"))
        go_on(page, lambda: page.keyboard.press("s"))
        go_on(page, lambda: page.click("#skip"))
        page.keyboard.press("Enter")  # nothing has a place yet
        assert "3 answers have no place yet" in page.inner_text("#trouble")
    (row,) = read_rankings(store.file)
    assert row.values["note"] == "hm 3"
    ranks = dict(zip(row.values["responses"], row.values["ranks"], strict=True))
    assert [ranks[text] for text in shown] == [1, 1, 0]
    assert progress(store.reading()).annotators[0].skips == 2


NASTY = (
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\"> <b>bold</b> &amp; {{ 7 * 7 }}",
    "</div></main><h1>Nothing is left for you.</h1>",
)


def test_markup_is_text(browser, store):
    store.add([Sample((Message("system", NASTY[0]), Message("user", NASTY[1])), NASTY)])
    with served(labelling_app(store)) as url, opened(browser, url) as page:
        assert sorted(texts(page)) == sorted(NASTY)
        turns = page.locator(".turn").all_inner_texts()
        assert turns == [f"System\n{NASTY[0]}", f"User\n{NASTY[1]}"]
        assert page.title() == "Which answer is better?"
        assert page.locator("main script, main img, main b, main h1").count() == 0
        picture(page, "markup")


def test_one_annotator_is_told_that_the_rest_is_for_others(browser, store):
    store.add(samples(2), overlap=0.5)
    with served(labelling_app(store)) as url, opened(browser, url) as page:
        for _ in range(2):
            go_on(page, lambda: rank(page))
        page.wait_for_selector("#done:has-text('Rankings still wanted from other annotators: 1.')")
        with opened(browser, url, "Bea") as other:
            rank(other)
            other.wait_for_selector("#done:has-text('Every item has the rankings that it needs')")


def test_two_annotators_see_agreement(browser, store):
    store.add(samples(4))
    store.share_out(1.0, 2)
    with (
        served(labelling_app(store)) as url,
        opened(browser, url, "Ann") as ann,
        opened(browser, url, "Bea <b>") as bea,
    ):
        for page in (ann, bea):
            for _ in range(4):
                best = sorted(texts(page))  # both by the same rule
                for text in best:
                    page.keyboard.press(str(texts(page).index(text) + 1))
                go_on(page, lambda page=page: page.keyboard.press("Enter"))
        bea.wait_for_selector("text=agreement 1.00 on 4 items")
        assert bea.inner_text("#who") == "Bea <b>"


def test_a_page_outlives_its_server(browser, tmp_path):
    store = LabelStore(tmp_path / "l.sqlite")
    store.add(samples(3))
    app, port = labelling_app(store), []
    with served(app) as url:
        port.append(int(url.rpartition(":")[2]))
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.fill("#name", "Ann")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card")
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("text=The server does not answer")
    picture(page, "gone")
    assert read_rankings(store.file) == []
    with served(app, port=port[0]):
        page.wait_for_selector("#trouble", state="hidden")
        page.wait_for_function("document.querySelector('#counts').innerText.startsWith('you 1')")
    context.close()
    store.close()
    assert len(read_rankings(tmp_path / "l.sqlite")) == 1


def test_a_ranking_that_was_not_sent_is_sent_by_the_next_visit(browser, store):
    store.add(samples(2))
    with served(labelling_app(store)) as url, opened(browser, url) as page:
        page.context.route("**/api/rankings", lambda route: route.abort())
        first = prompt(page)
        for key in ("1", "2", "3", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector("#trouble:visible")
        page.context.unroute("**/api/rankings")
        page.evaluate("location.reload()")
        page.wait_for_function(
            "first => document.querySelector('#prompt').innerText.length && "
            "!document.querySelector('#prompt').innerText.endsWith(first)",
            arg=first,
        )
    assert [row.values["prompt"] for row in read_rankings(store.file)] == [first]


def rank(page):
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)


class Changing:
    """An app in whose place another can be served."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, *request):
        await self.app(*request)


def test_a_page_left_open_saves_nothing_in_the_file_that_is_served_next(browser, store, tmp_path):
    store.add(samples(2))
    other = LabelStore(tmp_path / "other.sqlite")
    other.add([Sample("not this", ("a", "b", "c"))])
    now = Changing(labelling_app(store))
    with served(now) as url, opened(browser, url) as page:
        ranked = prompt(page)
        now.app = labelling_app(other)
        rank(page)
        page.wait_for_selector("text=belongs to another file. It is kept in this browser")
        assert prompt(page) == "not this"
        page.reload()  # kept, and told again
        page.wait_for_selector("text=belongs to another file. It is kept in this browser")
        page.wait_for_selector(".card")
        now.app = labelling_app(store)
        page.reload()
        page.wait_for_selector("#counts:has-text('you 1')")
    other.close()
    assert read_rankings(other.file) == []
    assert [row.values["prompt"] for row in read_rankings(store.file)] == [ranked]


def test_a_refusal_stays_to_be_read_and_stops_no_other_ranking(browser, store):
    store.add(samples(3))
    kept = [{"annotator": "Ann", "item": item, "ranks": [0, 1, 2]} for item in (1, 1, 2)]
    with served(labelling_app(store)) as url, opened(browser, url, name=None) as page:
        for number, ranking in enumerate(kept):
            page.evaluate(
                "([key, value]) => localStorage.setItem(key, JSON.stringify(value))",
                [f"hydralign ranking {number}", ranking | {"token": str(number)}],
            )
        page.fill("#name", "Ann")
        page.keyboard.press("Enter")
        page.wait_for_selector("#counts:has-text('you 2')")
        page.wait_for_timeout(100)
        assert "Ann has ranked item 1 already" in page.inner_text("#trouble")
        rank(page)
        page.wait_for_selector("#trouble", state="hidden")
        page.reload()
        page.wait_for_selector("#done:visible")
        assert page.locator("#trouble:visible").count() == 0
    assert len(read_rankings(store.file)) == 3


def test_a_name_that_is_refused_is_asked_for_again(browser, store):
    store.add(samples(1))
    with served(labelling_app(store)) as url, opened(browser, url, name=None) as page:
        page.fill("#name", "Ann\u202e")  # turns what follows around
        page.keyboard.press("Enter")
        page.wait_for_selector("text=name must be one line")
        assert page.is_visible("#start")
        page.reload()
        page.wait_for_selector("#start:visible")
        page.fill("#name", "نرگس\u200cها")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card")
        page.reload()
        page.wait_for_selector(".card")


def test_the_token_opens_the_page(browser, store):
    store.add(samples(1))
    with served(labelling_app(store), token="a-token-of-16-ch") as url:
        with opened(browser, f"{url}/?token=a-token-of-16-ch") as page:
            assert len(texts(page)) == 3
        page = browser.new_page()
        assert page.goto(url).status == 401
        assert "token is missing or wrong" in page.content()
        page.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_fits_the_window(browser, store, width, height, scheme):
    long = "word " * 120 + "x" * 200
    store.add([Sample(EXAMPLE_PROMPT, EXAMPLES), Sample("long", (long, long + "!", "short"))])
    store.put_in_order({1: 0.0, 2: 1.0})
    look = {"width": width, "height": height, "color_scheme": scheme}
    with served(labelling_app(store)) as url:
        with opened(browser, url, name=None, **look) as page:
            picture(page, f"start-{width}-{scheme}")
        with opened(browser, url, **look) as page:
            for key in ("3", "1"):
                page.keyboard.press(key)
            page.keyboard.press("Shift+Digit4")
            picture(page, f"page-{width}-{scheme}")
            for _ in range(2):
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.locator("#save").bounding_box()["y"] < height
                if page.locator(".card").count() == 4:
                    go_on(page, lambda: page.keyboard.press("Enter"))
            picture(page, f"long-{width}-{scheme}")


EXAMPLE_PROMPT = (Message("user", "Why is the sky blue? I am six."),)
EXAMPLES = (
    "Sunlight is made of all the colours. The air bounces the blue part around more than the "
    "others, so blue comes at you from everywhere.",
    "Because of the ocean.",
    "Rayleigh scattering: the intensity is proportional to the inverse fourth power of the "
    "wavelength, so that short wavelengths are scattered most.",
    "Think of a ball pit:\n- red balls roll straight through\n- blue balls bounce everywhere\n\n"
    "The air does that with light.",
)
