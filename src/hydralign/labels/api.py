"""The labelling page and its HTTP interface, which a script may use as well as the page.

| request | with | gives |
| --- | --- | --- |
| `GET /api/next` | `?annotator=NAME` | `{"item": ITEM or null, "undo": number or null}` |
| `POST /api/rankings` | `{"annotator", "item", "ranks"}` and more | `{"ranking": number}` |
| `POST /api/undo` | `{"annotator", "ranking": number}` | as `next`, the item that was undone |
| `GET /api/progress` | | `progress.Progress`: counts, agreement, annotators |

ITEM is `{"item": number, "content": its hash, "prompt": text or messages, "responses": [text, ...],
"ranks", "note"}`; the last two are those of a ranking that was undone. In what is posted, `ranks`
has a number for each response as it was handed out: lower is better, equal is a tie; null skips the
item. A ranking may have a `note`, the `seconds` it took, and a `token` that the client makes up:
sent again with the same one, it is saved once. With the item's `content` it gets 409 where the item
of that number is another one: the database is not that which handed it out. `undo` is the number of
the ranking that can be undone.

What is asked wrongly gets 400, a token that is missing or wrong 401, a foreign page 403, and a
database that cannot be written now 503: send that again later. All of them say `{"error": text}`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hydralign.data.label_database import DatabaseTrouble
from hydralign.errors import UserError
from hydralign.labels.items import AnotherItem, Shown, Submission
from hydralign.labels.progress import progress
from hydralign.labels.store import LabelStore
from hydralign.web.answers import conflict, files, not_now, object_of, refused
from hydralign.web.values import is_number, number, text, whole

PAGE = Path(__file__).parent / "page"


def labelling_app(store: LabelStore) -> Starlette:
    """Return the page of a store and its interface, for `hydralign.web.server.serve`."""

    def handed_out(shown: Shown | None, annotator: str) -> Response:
        item = None if shown is None else asdict(shown)
        return JSONResponse({"item": item, "undo": store.last(annotator)})

    def next_item(request: Request) -> Response:
        annotator = request.query_params.get("annotator", "")
        return handed_out(store.next(annotator), annotator)

    async def save(request: Request) -> Response:
        submission = submission_of(await object_of(request))
        return JSONResponse({"ranking": await run_in_threadpool(store.save, submission)})

    async def undo(request: Request) -> Response:
        values = await object_of(request)
        annotator, ranking = text(values, "annotator"), whole(values, "ranking")
        shown = await run_in_threadpool(store.undo, annotator, ranking)
        return await run_in_threadpool(handed_out, shown, annotator)

    def how_far(request: Request) -> Response:
        return JSONResponse(asdict(progress(store.reading())))

    return Starlette(
        routes=[
            Route("/api/next", next_item),
            Route("/api/rankings", save, methods=["POST"]),
            Route("/api/undo", undo, methods=["POST"]),
            Route("/api/progress", how_far),
            *files(PAGE),
        ],
        exception_handlers={UserError: refused, AnotherItem: conflict, DatabaseTrouble: not_now},
    )


def submission_of(values: dict[str, Any]) -> Submission:
    """Return the ranking that a request holds.

    Raises:
        UserError: if something is missing or of the wrong type.
    """
    ranks = values.get("ranks")
    if "ranks" not in values or not (
        ranks is None or (isinstance(ranks, list) and all(map(is_number, ranks)))
    ):
        raise UserError("ranks: wanted a list of numbers, or null to skip the item.")
    return Submission(
        item=whole(values, "item"),
        annotator=text(values, "annotator"),
        ranks=ranks,
        note=text(values, "note", ""),
        seconds=None if values.get("seconds") is None else number(values, "seconds"),
        token=text(values, "token", ""),
        content=text(values, "content", ""),
    )
