"""Reports in a real browser, without a network."""

import shutil

import pytest

from hydralign.outcomes import write_outcomes
from hydralign.report.write import write_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

SIZES = "[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Opens a file; returns the page and all that went wrong."""
    context = browser.new_context(offline=True)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))

    def asked(request):
        if not request.url.startswith(("file:", "data:")):
            wrong.append(request.url)

    page.on("request", asked)

    def show(path):
        page.goto(path.as_uri())
        page.wait_for_load_state()
        return page, wrong

    yield show
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "grpo", "rloo"])
def test_a_report_opens_whole_and_asks_for_nothing(drawn, opened, stage):
    page, wrong = opened(drawn / stage / "report.html")
    sizes = page.evaluate(SIZES)
    assert len(sizes) >= 3
    assert all(complete and natural > 100 and shown > 100 for complete, natural, shown in sizes)
    assert page.evaluate("document.body.scrollWidth <= window.innerWidth")
    assert wrong == []


@pytest.mark.slow
def test_the_links_of_a_chain_lead_to_its_stages(drawn, opened):
    page, wrong = opened(drawn / "report.html")
    page.click('a[href="grpo/report.html"]')
    assert page.inner_text("h1") == "grpo"
    assert wrong == []


def test_a_response_that_holds_a_script_is_text(bare, policy, opened):
    write_outcomes(bare, policy)
    page, wrong = opened(write_report(bare))
    assert page.title() == "ppo | bare"
    row = page.inner_text("table.responses tbody tr")
    assert "<script>document.title = 'before'</script>" in row
    assert "<script>document.title = 'after'</script>" in row
    assert "a <b>film</b>" in row
    assert wrong == []
