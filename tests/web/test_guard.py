"""Who is let through: by address, by token, by where the request comes from."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from hydralign.errors import UserError
from hydralign.web.guard import HEADERS, Guard, is_loopback
from hydralign.web.server import address, checked_token, listen

TOKEN = "a-token-of-16-ch"


def client(host="127.0.0.1", token=None, url="http://127.0.0.1:8000"):
    async def page(request):
        return PlainTextResponse("seen")

    app = Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])
    return TestClient(Guard(app, host=host, token=token), base_url=url)


def test_the_machine_itself_needs_no_token():
    for url in ("http://127.0.0.1:8000", "http://localhost:9", "http://[::1]:8000"):
        answer = client(url=url).get("/")
        assert (answer.status_code, answer.text) == (200, "seen")
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1.evil.example", "", "[", "192.168.0.4"]
)
def test_another_name_for_this_machine_is_refused(host):
    answer = client().get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "Open the address as printed" in answer.json()["error"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://[", "http://127.0.0.1:9999"]
)
def test_pages_of_others_may_not_post(origin):
    answer = client().post("/", headers={"Origin": origin})
    assert answer.status_code == 403
    assert origin in answer.json()["error"]


def test_the_page_itself_may_post():
    assert client().post("/", headers={"Origin": "http://127.0.0.1:8000"}).text == "seen"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_may_link_to_the_page_and_get_nothing_else(site):
    asked = {"Sec-Fetch-Site": site}
    assert client().get("/", headers=asked).text == "seen"
    answer = client().get("/api/next?annotator=x", headers=asked)
    assert answer.status_code == 403
    assert "nothing else" in answer.json()["error"]


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_page_and_the_address_bar_get_everything(site):
    assert client().get("/api/next", headers={"Sec-Fetch-Site": site}).text == "seen"


@pytest.mark.parametrize("others", ["a/b=c", 'x={"a": "b, c"}', "=", "novalue"])
def test_cookies_of_other_programs_do_no_harm(others):
    browser = client("0.0.0.0", TOKEN)
    said = browser.get(f"/?token={TOKEN}").headers["set-cookie"].partition(";")[0]
    stranger = client("0.0.0.0", TOKEN)
    assert stranger.get("/", headers={"Cookie": f"{others}; {said}; {others}"}).text == "seen"
    assert stranger.get("/", headers={"Cookie": others}).status_code == 401


@pytest.mark.parametrize("shown", ["", "?token=", "?token=wrong", f"?token={TOKEN}x", "?token=%FF"])
def test_other_addresses_need_the_token(shown):
    answer = client("0.0.0.0", TOKEN, "http://192.168.0.4:8000").get(f"/{shown}")
    assert answer.status_code == 401
    assert "token is missing or wrong" in answer.json()["error"]
    assert "set-cookie" not in answer.headers


def test_the_token_is_shown_in_the_address_once_then_in_a_cookie():
    browser = client("0.0.0.0", TOKEN, "http://192.168.0.4:8000")
    first = browser.get(f"/?token={TOKEN}")
    assert first.text == "seen"
    said = first.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=Strict" in said
    assert browser.get("/").text == "seen"
    assert client("0.0.0.0", TOKEN).get("/").status_code == 401


def test_a_script_shows_it_as_a_bearer():
    script = client("0.0.0.0", TOKEN)
    assert script.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).text == "seen"
    assert script.get("/", headers={"Authorization": "Bearer x"}).status_code == 401


def test_which_addresses_are_this_machines_own():
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
        assert checked_token(host, None) is None
    for host in ("0.0.0.0", "::", "192.168.0.4", "example.org", ""):
        assert not is_loopback(host)
        assert len(checked_token(host, None)) >= 16
    assert checked_token("0.0.0.0", None) != checked_token("0.0.0.0", None)


@pytest.mark.parametrize(
    "token", ["", "short", "with space in it", "semi;colon", "ümlauts-ümlauts"]
)
def test_a_token_that_cannot_stand_in_an_address(token):
    with pytest.raises(UserError, match="--token: wanted at least 8 characters"):
        checked_token("127.0.0.1", token)


def test_a_port_in_use():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(taken, None) == f"http://127.0.0.1:{port}/"
        assert address(taken, TOKEN) == f"http://127.0.0.1:{port}/?token={TOKEN}"
        with pytest.raises(UserError, match=f"port {port}: another program listens there"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_somebody_else(host):
    with pytest.raises(UserError, match=f"Cannot listen on {host}, port 0"):
        listen(host, 0)


def test_a_port_that_does_not_exist():
    with pytest.raises(UserError, match="port 70000"):
        listen("127.0.0.1", 70000)
