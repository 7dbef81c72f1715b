"""Serving an app until Ctrl-C: the address, the token, the port."""

import errno
import re
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from hydralign.errors import UserError
from hydralign.web.guard import Guard, is_loopback

_WHY = {
    errno.EADDRINUSE: "another program listens there. Choose another one: --port NUMBER",
    errno.EACCES: "ports below 1024 belong to the system. Choose another one: --port NUMBER",
    errno.EADDRNOTAVAIL: "this machine has no such address. Leave out --host, or use --host "
    "0.0.0.0 for all of its addresses",
}


def serve(
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve an app behind a guard until Ctrl-C.

    Args:
        app: to serve.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        token: that requests must show. Made up, if None, for any address but this machine's own.
        say: is told the address to open.

    Raises:
        UserError: if nothing can be listened to there, or the token has odd characters.
    """
    token = checked_token(host, token)
    with listen(host, port) as listener:
        app = Guard(app, host=host, token=token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        say(address(listener, token))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def checked_token(host: str, token: str | None) -> str | None:
    """Return the token of a server: that given, or a new one where one is needed.

    Raises:
        UserError: if the one given cannot stand in an address.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(16)
    if not re.fullmatch(r"[\w.~-]{8,}", token, re.ASCII):
        raise UserError(
            "--token: wanted at least 8 characters, of letters, digits and . _ ~ - only, as it "
            "becomes part of an address. Left out, one is made up."
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: if the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, as asyncio turns Nagle's algorithm off only where it reads TCP here:
    # every answer would take 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:  # an unknown name, a number that is no port
        listener.close()
        why = _WHY.get(getattr(error, "errno", None) or 0, getattr(error, "strerror", str(error)))
        raise UserError(f"Cannot listen on {host}, port {port}: {why}.") from error
    return listener


def address(listener: socket.socket, token: str | None) -> str:
    """Return the address to open; of a socket on all addresses, the machine's name."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
