"""The engine of a test: it keeps what it publishes, knows what works, and has steps stood in for.

It is its own hub: whatever is committed comes to `publish`, as it would for subscribers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import anyio

from dispatch.core.clock import parse_iso
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import AttemptStarted, Entry, Origin
from dispatch.core.nodes import StepNode
from dispatch.core.waits import StepWait
from dispatch.engine.engine import Engine
from dispatch.flow import Registry
from dispatch.store.base import Committed, Execution, Store
from dispatch.testing.clock import FakeClock


class Worker(Engine):
    """`entries` is the journal of the one execution that it drives; `change` is set, and made anew,
    by each commit.
    """

    clock: FakeClock

    def __init__(
        self, store: Store, registry: Registry, clock: FakeClock, stand_ins: Mapping[str, Any]
    ):
        super().__init__(store, self, registry, clock, worker="test")
        self.entries: list[Entry] = []
        self.change = anyio.Event()
        self._stand_ins = stand_ins
        self._names: dict[str, str] = {}
        #: Steps that have begun and not ended: when the next attempt is due, if one has failed.
        self._steps: dict[str, float | None] = {}

    def publish(self, committed: Committed) -> None:
        for entry in committed.entries():
            self.entries.append(entry)
            self._note(entry)
        self.change.set()
        self.change = anyio.Event()

    @property
    def followed(self) -> Collection[ExecutionId]:
        return ()

    def grown(self, execution_id: ExecutionId, last_seq: int) -> None:
        """Nobody else is at work."""

    def break_off(self, execution_id: ExecutionId) -> None:
        """There are no streams."""

    def _note(self, entry: Entry) -> None:
        facts = entry.facts
        match entry.kind, entry.origin:
            case "step_start", _:
                self._names[facts.id] = facts.name
            case "dispatch.step_attempt", _:
                self._steps[entry.payload(AttemptStarted).step_id] = None
            case "error", Origin.WORLD:
                self._steps[facts.step_id] = parse_iso(facts.retry_at)
            case "step_complete", _:
                self._steps.pop(facts.id, None)
            case _:
                pass

    @property
    def at_work(self) -> list[str]:
        """The steps that an attempt is made of, by name."""
        return [self._names[id] for id, retry_at in self._steps.items() if retry_at is None]

    @property
    def retry_at(self) -> float | None:
        """When the next attempt of a step will be due, if nothing can happen before."""
        times = [at for at in self._steps.values() if at is not None]
        if not times or len(times) < len(self._steps) or min(times) <= self.clock.now():
            return None
        return min(times)

    def is_let_go(self, execution: Execution) -> bool:
        """Whether nothing but a caller, or time, drives it on: so it is, or is about to be."""
        return self.retry_at is not None or (execution.worker is None and not execution.runnable)

    def is_idle(self, execution: Execution) -> bool:
        """Whether its driver, too, waits to be woken."""
        runner = self._runners.get(execution.id)
        return runner is None or runner.is_idle

    def spawn(self, function: Callable[..., Any], *args: Any) -> None:
        for node in args:
            if isinstance(node, StepNode) and isinstance(node.wait, StepWait):
                self._stand_in(node.wait)
        super().spawn(function, *args)

    def _stand_in(self, wait: StepWait[Any]) -> None:
        """Before it is begun: another function, in the same step."""
        if wait.name in self._stand_ins:
            given = self._stand_ins[wait.name]
            wait.fn = given if inspect.isasyncgenfunction(given) else partial(made, given)


async def made(given: Any, *args: Any, **kwargs: Any) -> Any:
    """What a test has given: an answer, a function of `args` that makes it, or an exception."""
    answer = given(*args, **kwargs) if callable(given) else given
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, Exception):
        raise answer
    return answer
