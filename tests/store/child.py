"""A worker as a process of its own: `python -m tests.store.child PATH WORKER WHAT ID`.

It prints a line for each thing it was acknowledged, and goes on until it is killed. `trickle` says
0 when it was told that its execution is not its own any more, and takes another.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio

from dispatch.core.errors import LeaseLost
from dispatch.core.ids import ExecutionId
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import call, new, texts, turn

#: Short: so that a test sees one pass.
LEASE_SECONDS = 0.5


class WallClock:
    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a store never sleeps by the clock")


async def main(path: str, worker: str, what: str, id: str) -> None:
    store = SqliteStore(Path(path), clock=WallClock(), lease_seconds=LEASE_SECONDS)
    async with store.session(worker):
        execution, _ = await store.create(new(ExecutionId(id), worker=worker))
        last_seq = execution.last_seq
        if what == "suspend":
            drafts = [call("c"), turn("c")]
            last_seq, _ = await store.append(execution.id, drafts, token=1)
        say(last_seq)
        number = 0
        while what == "append":
            number += 1
            last_seq, _ = await store.append(execution.id, texts(1 + number % 7), token=1)
            say(last_seq)
        while what == "trickle":
            await anyio.sleep(0.02)
            try:
                last_seq, _ = await store.append(execution.id, texts(1), token=1)
            except LeaseLost:
                execution, _ = await store.create(new(worker=worker))
                last_seq = 0
            say(last_seq)
        await anyio.sleep_forever()


def say(last_seq: int) -> None:
    sys.stdout.write(f"{last_seq}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    path, worker, what, id = sys.argv[1:]
    anyio.run(main, path, worker, what, id)
