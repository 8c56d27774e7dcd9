"""What a caller says to each server: the same job, in that server's own words.

One job: begin a run, which shows a text and wants an answer; give it; see the run's end. The other
one: have a run stream so many texts. `load` sends requests and counts answers, for all the same.
"""

from __future__ import annotations

import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from scripts.benchmarks.load import Answer, Connection, Server
from scripts.benchmarks.measures import CALL, EXECUTION, body_of, found

CITY, REPORT = "Oslo", "mild"
ASKED = {"city": CITY}


class Client(ABC):
    """One caller. `tasks` reads what has to be read meanwhile, over the second connection."""

    def __init__(self, first: Connection, second: Connection, tasks: TaskGroup):
        self.first, self.second, self.tasks = first, second, tasks

    @abstractmethod
    async def begin(self) -> str:
        """Start a run; give back what it is called as soon as it wants its answer."""

    @abstractmethod
    async def finish(self, run: str) -> None:
        """Answer, and wait for the run's end. Another client may have begun it."""

    @abstractmethod
    async def stream(self, count: int, size: int) -> Answer:
        """From the first request to the end of the stream."""


@asynccontextmanager
async def connect(make: type[Client], server: Server, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(server.connect(2 * count))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        pairs = zip(connections[:count], connections[count:], strict=True)
        yield [make(first, second, tasks) for first, second in pairs]
        tasks.cancel_scope.cancel()


class Dispatch(Client):
    async def begin(self) -> str:
        leg = await self.first.post("/v1/dispatch", body_of("weather", **ASKED), keep=True)
        return f"{found(EXECUTION, leg)} {found(CALL, leg)}"

    async def finish(self, run: str) -> None:
        execution, call = run.split()
        body = {"executionId": execution, "toolOutputs": {call: REPORT}}
        end = await self.first.post("/v1/dispatch/resume", body, keep=True)
        assert b"event: execution_complete" in end.body, end.body

    async def stream(self, count: int, size: int) -> Answer:
        body = body_of("tokens", count=count, size=size)
        return await self.first.post("/v1/dispatch", body, marker=b"event: text_delta")


class LlamaAgents(Client):
    """A run has one stream, which stays open while it waits: answers go another way."""

    _RUN = re.compile(rb'"handler_id":"([^"]+)"')
    _run = ""
    _ended: anyio.Event

    async def begin(self) -> str:
        run = await self._start("weather", **ASKED)
        await self._follow(run)
        return run

    async def finish(self, run: str) -> None:
        if run != self._run:
            await self._follow(run)
        event = {"type": "HumanResponseEvent", "value": {"response": REPORT}}
        await self.first.post(f"/events/{run}", {"event": event})
        await self._ended.wait()

    async def stream(self, count: int, size: int) -> Answer:
        began_at = time.perf_counter()
        run = await self._start("tokens", count=count, size=size)
        answer = await self.second.get(self._events(run), marker=b'"type":"Token"')
        return answer._replace(sent_at=began_at)

    async def _start(self, workflow: str, **inputs: object) -> str:
        path = f"/workflows/{workflow}/run-nowait"
        return found(self._RUN, await self.first.post(path, {"start_event": inputs}, keep=True))

    async def _follow(self, run: str) -> None:
        """Read its stream, at first up to the question."""
        self._run, self._ended, asked = run, anyio.Event(), anyio.Event()

        def watch(piece: bytes, _: float) -> None:
            if b'"type":"InputRequiredEvent"' in piece:
                asked.set()

        async def read() -> None:
            await self.second.get(self._events(run), watch=watch)
            self._ended.set()

        self.tasks.start_soon(read)
        await asked.wait()

    def _events(self, run: str) -> str:
        return f"/events/{run}?after_sequence=-1"


class Dbos(Client):
    """The server is `apps.dbos_transact`: DBOS is a library, and has none."""

    _RUN = re.compile(rb'"id":"([^"]+)"')

    async def begin(self) -> str:
        return found(self._RUN, await self.first.post("/weather", ASKED, keep=True))

    async def finish(self, run: str) -> None:
        end = await self.first.post(f"/weather/{run}", {"report": REPORT}, keep=True)
        assert REPORT.encode() in end.body, end.body

    async def stream(self, count: int, size: int) -> Answer:
        body = {"count": count, "size": size}
        return await self.first.post("/tokens", body, marker=b"data: x")


class LangGraph(Client):
    async def begin(self) -> str:
        thread = str(uuid.uuid4())
        end = await self._run("weather", thread, input=ASKED, if_not_exists="create")
        assert b'"__interrupt__"' in end.body, end.body
        return thread

    async def finish(self, run: str) -> None:
        end = await self._run("weather", run, command={"resume": REPORT})
        assert b'"report":"%b"' % REPORT.encode() in end.body, end.body

    async def stream(self, count: int, size: int) -> Answer:
        asked = {"input": {"count": count, "size": size}, "if_not_exists": "create"}
        return await self._run("tokens", str(uuid.uuid4()), keep=False, **asked)

    async def _run(self, graph: str, thread: str, *, keep: bool = True, **asked: Any) -> Answer:
        body = {
            "assistant_id": graph,
            "stream_mode": ["custom", "updates"],
            # As events of all the others, its own can be asked for again.
            "stream_resumable": True,
            **asked,
        }
        path = f"/threads/{thread}/runs/stream"
        return await self.first.post(path, body, marker=b"event: custom", keep=keep)
