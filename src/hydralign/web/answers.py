"""Requests and answers as JSON, and files of a page."""

import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hydralign.errors import UserError

SHARED = Path(__file__).parent / "page"
"""Files that every page may use: `base.css`, `dom.js`."""
MOST_BYTES = 1_000_000


async def object_of(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request holds.

    Raises:
        UserError: if it holds anything else, or is not declared as JSON: other pages can send
            forms and plain text without being asked for permission.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UserError("Wanted a request with Content-Type: application/json.")
    if int(request.headers.get("content-length", MOST_BYTES + 1)) > MOST_BYTES:
        raise UserError(f"The request is longer than {MOST_BYTES} bytes, or does not say.")
    try:
        value = json.loads(await request.body())
    except ValueError as error:
        raise UserError(f"The request is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"The request holds {type(value).__name__}, wanted an object.")
    return value


def refused(request: Request, error: Exception) -> Response:
    """Answer a mistake of the one who asks."""
    return JSONResponse({"error": str(error)}, 400)


def conflict(request: Request, error: Exception) -> Response:
    """Answer that the request is right, but not for what is served here."""
    return JSONResponse({"error": str(error)}, 409)


def not_now(request: Request, error: Exception) -> Response:
    """Answer that the same request may succeed later."""
    return JSONResponse({"error": str(error)}, 503)


def files(folder: Path) -> list[Route]:
    """Return routes to the files of a page: `index.html` as /, and each by its name."""

    def route(path: str, file: Path) -> Route:
        def send(request: Request) -> Response:
            return FileResponse(file)

        return Route(path, send)

    routes = [
        route(f"/{file.name}", file)
        for source in (folder, SHARED)
        for file in sorted(source.iterdir())
        if file.suffix in (".html", ".css", ".js", ".svg")
    ]
    return [route("/", folder / "index.html"), *routes]
