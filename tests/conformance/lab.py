"""The steps that the cases' flows are made of, and what is known of them from outside.

A step is given its run, so that it can be counted by execution. `LAB` is set before an engine is
begun; an engine that is thrown away leaves it as it is, as a crash leaves the world.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextvars import ContextVar
from typing import Any

import anyio
import msgspec

from dispatch import Run, result, step
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Entry

LAB: ContextVar[Lab] = ContextVar("LAB")


class Lab:
    """How often each step function was called, and who waits for the engine to die."""

    def __init__(self) -> None:
        self.calls: dict[ExecutionId, Counter[str]] = defaultdict(Counter)
        self._failures: Counter[ExecutionId] = Counter()
        self.dying: set[ExecutionId] = set()
        self._ended: dict[ExecutionId, set[str]] = defaultdict(set)
        self._news = anyio.Event()

    def found(self, id: ExecutionId, entries: Sequence[Entry]) -> None:
        """What had happened to an execution by the last of `entries`."""
        self.calls[id] = attempts_by_name(entries)
        self._failures[id] = sum(entry.kind == "error" for entry in entries)
        for entry in entries:
            if entry.kind == "step_complete" and entry.facts.success:
                self._ended[id].add(str(msgspec.json.decode(entry.facts.result)))

    def call(self, id: ExecutionId, name: str) -> int:
        """Count a call; give back which one it is."""
        self.calls[id][name] += 1
        return self.calls[id][name]

    def fail(self, id: ExecutionId, times: int) -> None:
        """Raise, unless that has happened so many times. What is cut off has not failed."""
        self._failures[id] += 1
        if self._failures[id] <= times:
            raise ValueError("not yet")

    def end(self, id: ExecutionId, value: str) -> None:
        self._ended[id].add(value)
        self._news.set()
        self._news = anyio.Event()

    async def ended(self, id: ExecutionId, value: str) -> None:
        """Return once a step has come to that value."""
        while value not in self._ended[id]:
            await self._news.wait()

    async def die(self, id: ExecutionId) -> None:
        """Never return: here the engine is thrown away."""
        self.dying.add(id)
        await anyio.sleep_forever()


def attempts_by_name(entries: Sequence[Entry]) -> Counter[str]:
    """How often each step was begun, by its journal."""
    names = {entry.facts.id: entry.facts.name for entry in entries if entry.kind == "step_start"}
    return Counter(
        names[msgspec.json.decode(entry.facts.value)["stepId"]]
        for entry in entries
        if entry.kind == "dispatch.step_attempt"
    )


@step
async def gives(run: Run[Any], value: Any) -> Any:
    LAB.get().call(run.id, "gives")
    return value


@step
async def fails(run: Run[Any], message: str) -> None:
    LAB.get().call(run.id, "fails")
    raise ValueError(message)


@step
async def gives_after(run: Run[Any], value: str, other: str) -> str:
    """Come to `value` only when another step has come to `other`."""
    LAB.get().call(run.id, "gives_after")
    await LAB.get().ended(run.id, other)
    LAB.get().end(run.id, value)
    return value


@step
async def gives_first(run: Run[Any], value: str) -> str:
    LAB.get().call(run.id, "gives_first")
    LAB.get().end(run.id, value)
    return value


@step
async def dies_once(run: Run[Any], value: str) -> str:
    """The first attempt takes the engine with it."""
    if LAB.get().call(run.id, "dies_once") == 1:
        await LAB.get().die(run.id)
    return value


@step(retries=1, backoff=1)
async def dies_once_of_two(run: Run[Any], value: str) -> str:
    """The same, of a step that may be tried twice."""
    if LAB.get().call(run.id, "dies_once_of_two") == 1:
        await LAB.get().die(run.id)
    return value


@step(retries=1, backoff=1)
async def fails_once(run: Run[Any], value: str) -> str:
    LAB.get().call(run.id, "fails_once")
    LAB.get().fail(run.id, times=1)
    return value


@step(retries=2)
async def fails_twice(run: Run[Any], value: str) -> str:
    """With the backoff that a step has unless it says otherwise."""
    LAB.get().call(run.id, "fails_twice")
    LAB.get().fail(run.id, times=2)
    return value


@step(retries=4, backoff=2)
async def fails_twice_slowly(run: Run[Any], value: str) -> str:
    LAB.get().call(run.id, "fails_twice_slowly")
    LAB.get().fail(run.id, times=2)
    return value


@step(retries=3, backoff=1)
async def fails_always(run: Run[Any]) -> None:
    LAB.get().call(run.id, "fails_always")
    raise ValueError("never")


@step(retries=1, backoff=1)
async def cannot_submit(run: Run[Any]) -> None:
    LAB.get().call(run.id, "cannot_submit")
    raise ConnectionError("nobody there")


@step
async def greets(run: Run[Any], name: str) -> AsyncGenerator[Any, None]:
    """Tells what it does while it does it."""
    LAB.get().call(run.id, "greets")
    yield f"Greeting step started for: {name}"
    yield f"Greeting step completed with: Hello, {name}!"
    yield result(f"Hello, {name}!")
