"""DBOS with SQLite, behind an HTTP server of one's own as in its guides: workflows that ask, and
that stream. A second argument is how often whoever waits looks into the database, in seconds.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dbos import DBOS
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scripts.benchmarks.peers.apps.child import Child

DAY_SECONDS = 86_400
QUESTION, TEXT = "question", "text"


@DBOS.workflow()
async def weather(city: str) -> str:
    await DBOS.set_event_async(QUESTION, {"text": f"Looking up the weather in {city}. "})
    report = await DBOS.recv_async(timeout_seconds=DAY_SECONDS)
    return f"It is {report}."


@DBOS.workflow()
def tokens(count: int, size: int) -> int:
    token = "x" * size
    for _ in range(count):
        DBOS.write_stream(TEXT, token)
    DBOS.close_stream(TEXT)
    return count


async def ask(request: Request) -> Response:
    """Answers when the workflow waits, with its question."""
    asked = await request.json()
    handle = await DBOS.start_workflow_async(weather, asked["city"])
    request.app.state.handles[handle.workflow_id] = handle
    question = await DBOS.get_event_async(handle.workflow_id, QUESTION)
    return JSONResponse({"id": handle.workflow_id, **question})


async def answer(request: Request) -> Response:
    """Answers when the workflow has ended, with its result."""
    id = request.path_params["id"]
    await DBOS.send_async(id, (await request.json())["report"])
    # The handle that has begun it waits for its task; one that is retrieved polls.
    handle = request.app.state.handles.pop(id, None) or await DBOS.retrieve_workflow_async(id)
    return JSONResponse(await handle.get_result(polling_interval_sec=request.app.state.poll))


async def stream(request: Request) -> Response:
    asked = await request.json()
    # In a thread, as its endpoints that are no coroutines: that streams faster than a coroutine.
    handle = await to_thread(DBOS.start_workflow, tokens, asked["count"], asked["size"])
    return EventSourceResponse(_events(handle.workflow_id))


async def _events(id: str) -> AsyncIterator[dict[str, str]]:
    number = 0
    async for text in DBOS.read_stream_async(id, TEXT):
        number += 1
        yield {"id": str(number), "data": text}


def main() -> None:
    child = Child()
    (poll,) = map(float, child.arguments)
    DBOS(
        config={
            "name": "peer",
            "system_database_url": f"sqlite:///{child.db}",
            "notification_listener_polling_interval_sec": poll,
            "run_admin_server": False,
            "log_level": "WARNING",
            "application_version": "1",
        }
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.poll, app.state.handles = poll, {}
        DBOS.launch()
        yield
        DBOS.destroy()

    routes = [
        Route("/weather", ask, methods=["POST"]),
        Route("/weather/{id}", answer, methods=["POST"]),
        Route("/tokens", stream, methods=["POST"]),
    ]
    child.serve(Starlette(routes=routes, lifespan=lifespan))


if __name__ == "__main__":
    main()
