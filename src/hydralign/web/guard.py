"""Who may call a page's server: the machine itself, or whoever knows the token.

A browser sends requests for any page that is open in it. So a page of somebody else's must not be
able to post here (`Origin`), to get anything but the page itself (`Sec-Fetch-Site`; what is handed
out is noted, so getting is not free), nor to pass its own name off as ours (`Host`, DNS rebinding).
"""

import ipaddress
import secrets
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every answer: a page takes scripts, styles and data from here, and nothing from elsewhere."""

ELSEWHERE = ("cross-site", "same-site")
"""Of `Sec-Fetch-Site`: a page of another host, or of another port of this one."""

_SECONDS = 30 * 24 * 3600


class Guard:
    """Lets requests through to an app that come from where they should."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None) -> None:
        """Guard an app.

        Args:
            app: behind the guard.
            host: address that the server listens on.
            token: that requests must show, in the address (`?token=`), as a bearer or in the
                cookie that the first of these sets; None demands none.
        """
        self.app = app
        self.token = token
        self.only_local = token is None and is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or let the app answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.update(HEADERS)
                if self.token and message["status"] < 400 and "token" in _query(scope):
                    added.append("Set-Cookie", _cookie(scope, self.token))
            await send(message)

        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, answer)
        else:
            await self.app(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.only_local and not is_loopback(_split(f"//{host}").hostname or ""):
            return _error(403, f"Host {host!r} is not this machine. Open the address as printed.")
        if origin is not None and _split(origin).netloc != host:
            return _error(403, f"A page of {origin!r} may not call this server.")
        if headers.get("sec-fetch-site") in ELSEWHERE and scope["path"] != "/":
            return _error(403, "A page of another site may link to this one, and nothing else.")
        if self.token and not any(
            secrets.compare_digest(shown.encode(), self.token.encode())
            for shown in _tokens(scope, headers)
        ):
            return _error(
                401, "The token is missing or wrong. Open the address that was printed at start."
            )
        return None


def is_loopback(host: str) -> bool:
    """Say whether an address is that of the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tokens(scope: Scope, headers: Headers) -> list[str]:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    # Not http.cookies: a cookie of another program on this host may be none that it can read.
    cookie = cookie_parser(headers.get("cookie", "")).get(_cookie_name(scope), "")
    return [*_query(scope).get("token", []), bearer, cookie]


def _split(address: str) -> SplitResult:
    """Take an address apart; one that cannot be read has no parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def _cookie_name(scope: Scope) -> str:
    return f"hydralign-{(scope.get('server') or ('', 0))[1]}"  # ports of a machine share cookies


def _cookie(scope: Scope, token: str) -> str:
    name = _cookie_name(scope)
    return f"{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={_SECONDS}"


def _error(status: int, said: str) -> JSONResponse:
    return JSONResponse({"error": said}, status)
