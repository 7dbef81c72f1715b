"""The page to talk on, and its HTTP interface.

| request | with | gives |
| --- | --- | --- |
| `GET /api/speakers` | | `{"speakers": [name, ...], "temperature", "top_p", "top_k", "seed"}` |
| `POST /api/answer` | `{"speaker": number, "turns": [...]}` and those four | text, as it comes |

A turn is `{"role": "user" or "assistant", "content": text}`; the last one is the user's. The page
keeps the dialogue, the server nothing. Whoever hangs up stops the answer.

What is asked wrongly gets 400, a token that is missing or wrong 401, a foreign page 403. All of
them say `{"error": text}`.
"""

from asyncio import Lock
from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hydralign.chat.session import MOST_SEED
from hydralign.chat.speaker import Speaker
from hydralign.data.records import BadRow, Message
from hydralign.errors import UserError
from hydralign.rollout.decoding import Decoding
from hydralign.web.answers import files, object_of, refused
from hydralign.web.values import number, whole

PAGE = Path(__file__).parent / "page"


def chat_app(speakers: Sequence[Speaker], decoding: Decoding, seed: int = 0) -> Starlette:
    """Return the page and its interface, for `hydralign.web.server.serve`.

    Args:
        speakers: who answer.
        decoding: what the page begins with.
        seed: likewise.
    """
    one_at_a_time = Lock()  # roles may share a network, and a token of each in turn is no faster

    def who(request: Request) -> Response:
        return JSONResponse(
            {
                "speakers": [speaker.name for speaker in speakers],
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "top_k": decoding.top_k,
                "seed": seed,
            }
        )

    async def answer(request: Request) -> Response:
        values = await object_of(request)
        speaker = speakers[whole(values, "speaker", len(speakers) - 1)]
        pieces = await run_in_threadpool(
            speaker.answer,
            turns_of(values),
            decoding_of(values),
            whole(values, "seed", MOST_SEED),
        )

        async def stream() -> AsyncIterator[str]:
            generator = cast(Generator[str, None, None], pieces)
            async with one_at_a_time:
                try:
                    while (piece := await run_in_threadpool(next, generator, None)) is not None:
                        yield piece
                finally:
                    generator.close()

        return StreamingResponse(stream(), media_type="text/plain; charset=utf-8")

    return Starlette(
        routes=[
            Route("/api/speakers", who),
            Route("/api/answer", answer, methods=["POST"]),
            *files(PAGE),
        ],
        exception_handlers={UserError: refused},
    )


def turns_of(values: dict[str, Any]) -> list[Message]:
    """Return the dialogue that a request holds.

    Raises:
        UserError: if it is none, or does not end with the user's turn.
    """
    try:
        found = [Message(turn["role"], turn["content"]) for turn in values["turns"]]
        "".join(turn.content for turn in found).encode()  # half of a surrogate pair is no text
    except (BadRow, KeyError, TypeError, UnicodeEncodeError) as error:
        raise UserError("turns: wanted a list of objects with role and content.") from error
    if not found or found[-1].role != "user" or not found[-1].content.strip():
        raise UserError("turns: the last one must be the user's, and not empty.")
    return found


def decoding_of(values: dict[str, Any]) -> Decoding:
    """Return how a request wants tokens to be chosen.

    Raises:
        UserError: if a value is missing, or out of bounds.
    """
    top_k = None if values.get("top_k") is None else whole(values, "top_k", MOST_SEED)
    return Decoding(number(values, "temperature"), number(values, "top_p"), top_k)
