"""What is durable while an engine runs, seen from outside of it: at its store, and in its steps."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import anyio

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import AttemptStarted, Entry
from dispatch.store.base import Committed
from dispatch.store.sqlite import SqliteStore


class Violation(AssertionError):
    """A promise was broken."""


class Watch:
    """What is durable in a file while an engine writes to it, by the store's listener.

    `crash_at` is the commit after which the file is kept at `crash_to`.
    """

    def __init__(self, store: SqliteStore, path: Path, crash_to: Path | None, crash_at: int):
        self.store = store
        self.crashed = anyio.Event()
        self.moved: set[ExecutionId] = set()
        self.changed = anyio.Event()
        self.durable: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self.step_ids: dict[tuple[str, str], str] = {}
        self._path, self._crash_to, self._crash_at = path, crash_to, crash_at
        self._commits = 0

    def listen_for(self, engine_listens: Callable[[Committed], None]) -> None:
        """To be called when the engine has set its listener."""
        self._tell = engine_listens
        self.store.listener = self._listen

    def _listen(self, committed: Committed) -> None:
        id = committed.execution.id
        for entry in committed.entries():
            self.take(id, entry)
        self._tell(committed)
        self.touch(id)
        self._commits += 1
        if self._crash_to is not None and self._commits == self._crash_at:
            self._crash(self._crash_to)

    def take(self, id: ExecutionId, entry: Entry) -> None:
        """An entry is durable."""
        durable = self.durable[id]
        match entry.kind:
            case "step_start":
                # One execution never has two steps of one name in these flows.
                self.step_ids[id, entry.facts.name] = entry.facts.id
            case "dispatch.step_attempt":
                durable["attempt", entry.payload(AttemptStarted).step_id] += 1
            case "step_complete":
                # One that is abandoned while its thread sets out may still begin.
                abandoned = entry.facts.code == "abandoned"
                durable["abandoned" if abandoned else "complete", entry.facts.id] += 1
            case _:
                pass

    def touch(self, id: ExecutionId) -> None:
        self.moved.add(id)
        self.changed.set()

    def _crash(self, to: Path) -> None:
        source, target = sqlite3.connect(self._path), sqlite3.connect(to)
        source.backup(target)
        # Its process is dead: a worker never probes the locks of its own.
        target.execute("UPDATE workers SET process = 'dead'")
        target.commit()
        target.close()
        source.close()
        self.crashed.set()


class StepLab:
    """`plans.Lab`: counts what steps do, and holds the gated ones until the world opens."""

    def __init__(self, rng: Random, watch: Watch):
        self.gates: dict[str, list[anyio.Event]] = defaultdict(list)
        self.traces: dict[str, Any] = {}
        self.violations: list[str] = []
        self._rng, self._watch = rng, watch
        self._calls: Counter[tuple[str, str]] = Counter()
        self._before: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def found(self, execution_id: str, entries: Sequence[Entry]) -> None:
        """What the file holds of an execution as this engine opens it."""
        for entry in entries:
            self._watch.take(ExecutionId(execution_id), entry)
        for entry in entries:
            if entry.kind == "step_start":
                attempts = self._watch.durable[execution_id]["attempt", entry.facts.id]
                self._before[execution_id, entry.facts.name] = attempts

    async def work(self, execution_id: str, name: str, how: str) -> int:
        if how != "part":
            self._called(execution_id, name)
        if how == "gated" or (how in ("stream", "part") and self._rng.random() < 0.3):
            gate = anyio.Event()
            self.gates[execution_id].append(gate)
            self._watch.touch(ExecutionId(execution_id))
            await gate.wait()
        if how == "fails" or (how == "flaky" and self._rng.random() < 0.5):
            raise ValueError(f"{name} {self._rng.randrange(100)}")
        return self._rng.randrange(100)

    def work_in_thread(self, execution_id: str, name: str) -> int:
        with self._lock:
            self._called(execution_id, name)
            return self._rng.randrange(100)

    def ended(self, execution_id: str, trace: list[Any]) -> None:
        self.traces[execution_id] = trace

    def _called(self, execution_id: str, name: str) -> None:
        if self._watch.crashed.is_set():
            return
        call = (execution_id, name)
        self._calls[call] += 1
        step_id = self._watch.step_ids.get(call)
        if step_id is None:
            self.violations.append(f"{call} runs, and is not recorded")
            return
        durable = self._watch.durable[execution_id]
        if durable["complete", step_id]:
            self.violations.append(f"{call} runs again, and its result is there")
        if durable["attempt", step_id] - self._before.get(call, 0) < self._calls[call]:
            self.violations.append(f"{call} runs, and its attempt is not durable")


class WatchedStore:
    """A `Store` that says when an execution was let go of, which leaves nothing in its journal, and
    that lets `intrude` come before whatever a driver is about to append.
    """

    def __init__(self, store: SqliteStore, watch: Watch):
        self.__dict__.update(_store=store, _watch=watch, intrude=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "intrude":
            self.__dict__[name] = value
        else:
            setattr(self._store, name, value)

    async def append(self, execution_id: ExecutionId, *args: Any, **options: Any) -> Any:
        await self.intrude(execution_id)
        appended = await self._store.append(execution_id, *args, **options)
        self._watch.touch(execution_id)
        return appended

    async def release(self, execution_id: ExecutionId, **options: Any) -> None:
        await self._store.release(execution_id, **options)
        self._watch.touch(execution_id)


def shown(entries: Sequence[Entry]) -> str:
    """A journal for people."""
    lines = []
    for entry in entries:
        hidden = b"" if entry.private is None else b" | " + entry.private[:80]
        line = entry.data[:160] + hidden
        lines.append(f"{entry.seq:3} {entry.origin.value} {entry.kind:24} {line.decode()}")
    return "\n".join(lines)
