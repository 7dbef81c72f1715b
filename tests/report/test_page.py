"""Pieces of HTML: whatever text comes in is shown, and nothing of it is obeyed."""

from html.parser import HTMLParser

import pytest

from hydralign.report import page
from hydralign.report.canvas import picture
from hydralign.report.read import Answer
from hydralign.report.responses import coloured, compared, watched

EVIL = "<script>alert(1)</script> & \"quotes\" 'too'"


class Elements(HTMLParser):
    """Names of all elements, and the text between them."""

    def __init__(self, markup):
        super().__init__()
        self.names, self.attributes, self.text = [], [], ""
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "made",
    [
        lambda: page.tag("p", EVIL, title=EVIL),
        lambda: page.table([[EVIL]], [EVIL]),
        lambda: page.listing([EVIL]),
        lambda: page.folded(EVIL, EVIL),
        lambda: page.section(EVIL, EVIL),
        lambda: page.settings({EVIL: {EVIL: EVIL}}),
        lambda: page.page(EVIL, EVIL),
        lambda: coloured(EVIL, 1.0),
        lambda: watched({0: [Answer(EVIL, EVIL, "")]}, EVIL),
    ],
)
def test_text_is_shown_as_it_is(made):
    found = Elements(made())
    assert "script" not in found.names
    assert EVIL in found.text


def test_answers_stand_beside_the_prompt_that_they_were_given_to():
    first = [Answer("a", "a0", ""), Answer("b", "b0", ""), Answer("a", "a1", "+0.50")]
    found = Elements(watched({0: first, 8: [Answer("a", "a8", ""), *first[2:]]}, "rollout"))
    assert found.text == "promptrollout 0rollout 8" + "aa0a8" + "aa1score +0.50a1score +0.50"


def test_attributes_hold_what_they_are_given():
    assert Elements(page.tag("p", title=EVIL)).attributes == [("title", EVIL)]


def test_responses_are_shown_as_they_are(policy):
    found = Elements(compared(policy))
    assert "script" not in found.names
    assert "b" not in found.names
    assert "<script>document.title = 'before'</script>" in found.text
    assert "<script>document.title = 'after'</script>" in found.text


def test_the_page_lets_a_browser_load_and_run_nothing():
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in page.page("t")


def test_colours_say_the_way_and_the_strength():
    up, down, little = coloured("a", 4.0), coloured("a", -9.0), coloured("a", 0.4)
    assert "rgba(217, 119, 6, 0.60)" in up
    assert "rgba(37, 99, 168, 0.60)" in down
    assert "rgba(217, 119, 6, 0.06)" in little
    assert 'title="-9.00 nats"' in down


def test_a_section_without_content_is_left_out():
    assert page.section("Nothing", page.table([]), page.listing([])) == ""


def test_a_picture_keeps_its_size_in_the_page():
    shown = picture("one", "a < b", 1, lambda axes: None, size=(2.0, 1.5))
    made = page.image(shown)
    assert 'style="width: 192px"' in made  # 2 inches of 96 pixels
    assert 'alt="a &lt; b"' in made
