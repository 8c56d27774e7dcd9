"""llama-agents-server with its SQLite store: workflows that ask, and that stream.

It holds no reference to the tasks that it starts, so that runs which wait for an answer go with the
next garbage collection. Here they are held: what is measured is a server that keeps its runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from llama_agents.server import SqliteWorkflowStore, WorkflowServer
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

from scripts.benchmarks.peers.apps.child import Child


class Token(Event):
    text: str


class Ask(StartEvent):
    city: str


class Stream(StartEvent):
    count: int
    size: int


class Weather(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Ask) -> InputRequiredEvent:
        ctx.write_event_to_stream(Token(text=f"Looking up the weather in {ev.city}. "))
        return InputRequiredEvent(city=ev.city)

    @step
    async def tell(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent:
        ctx.write_event_to_stream(Token(text=f"It is {ev.response}."))
        return StopEvent(result=ev.response)


class Tokens(Workflow):
    @step
    async def stream(self, ctx: Context, ev: Stream) -> StopEvent:
        token = Token(text="x" * ev.size)
        for _ in range(ev.count):
            ctx.write_event_to_stream(token)
        return StopEvent(result=ev.count)


class Holding:
    """The application, on a loop that holds its tasks until they are done."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._held: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            asyncio.get_running_loop().set_task_factory(self._hold)
        await self._app(scope, receive, send)

    def _hold(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Future[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        return task


def main() -> None:
    child = Child()
    server = WorkflowServer(workflow_store=SqliteWorkflowStore(str(child.db)))
    server.add_workflow("weather", Weather(timeout=None), [HumanResponseEvent])
    server.add_workflow("tokens", Tokens(timeout=None))
    child.serve(Holding(server.app))


if __name__ == "__main__":
    main()
