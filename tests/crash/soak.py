"""Kill a server again and again under its clients, and hold what they saw against its journals.

`scripts/soak --minutes N` runs `soak`, on and on until there were enough kills, executions and
duplicate resumes too; `scripts/soak sweep --minutes N` runs the sweep without end.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, mkdtemp
from typing import NamedTuple

import anyio
import anyio.to_thread
import httpx

from dispatch.engine.dispatcher import Start
from tests.child import Child, serving
from tests.crash.clients import Client, Execution, Told
from tests.crash.judge import judge
from tests.crash.plans import PlanFlows, drawn
from tests.crash.sweep import Covered, report, sweep
from tests.crash.watch import Violation

FLOWS = Path(__file__).with_name("flows.py")
CLIENTS = 24
#: How long nothing may happen, when nobody kills any more, before all are at rest.
SETTLE_SECONDS = 60.0
#: Of each violation that is told.
MOST_CHARACTERS = 4000
BATCH = 6


class Enough(NamedTuple):
    """What must have been seen before a soak may end."""

    kills: int = 5
    executions: int = 200
    duplicates: int = 50


class Server:
    """`dispatch serve` as a child process on one file and one port, over several lives."""

    def __init__(self, folder: Path):
        self.db, self.traces = folder / "soak.db", folder / "traces.txt"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "DISPATCH_TRACES": str(self.traces),
            "DISPATCH_JOURNALS": str(self.db),
        }
        self._life = ExitStack()
        self._child: Child

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._start)

    def _start(self) -> None:
        os.environ |= self.environment
        self._child = self._life.enter_context(serving(self.db, FLOWS, port=self.port))

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._end, self._child.kill)

    async def stop(self) -> None:
        await anyio.to_thread.run_sync(self._end, self._child.stop)

    def _end(self, how: Callable[[], object]) -> None:
        how()
        self._life.close()

    def close(self) -> None:
        self._life.close()


async def soak(folder: Path, seconds: float, enough: Enough, rng: Random) -> Told:
    """Run for that long, and until it was enough; judge. Whatever is wrong is in `violations`."""
    told, server = Told(), Server(folder)
    ends_at = time.monotonic() + seconds

    def is_over() -> bool:
        counts = told.counts
        seen = Enough(counts["kills"], counts["executions"], counts["duplicate resumes"])
        reached = all(one >= other for one, other in zip(seen, enough, strict=True))
        return bool(told.violations) or (time.monotonic() > ends_at and reached)

    try:
        await server.start()
        async with _clients(server, told, rng, is_over):
            while not is_over():
                await anyio.sleep(rng.uniform(0.5, 4.0))
                if rng.random() < 0.1:
                    told.counts["stops"] += 1
                    await server.stop()
                else:
                    told.counts["kills"] += 1
                    await server.kill()
                await server.start()
        await _come_to_rest(server, told, rng)
        await _tell_late_joiners(server, told)
        await server.stop()
    finally:
        await anyio.to_thread.run_sync(server.close)
    told.violations = await anyio.to_thread.run_sync(judge, told, server.db, server.traces)
    return told


@asynccontextmanager
async def _clients(
    server: Server, told: Told, rng: Random, is_over: Callable[[], bool]
) -> AsyncIterator[None]:
    async def act() -> None:
        async with _http(server) as http:
            client = Client(http, told, Random(rng.random()))
            while not is_over():
                await client.act()

    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(act)
        yield


def _http(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=httpx.Timeout(30.0), trust_env=False)


async def _come_to_rest(server: Server, told: Told, rng: Random) -> None:
    """Answer what is open, but for what is left alone; each must end, or wait for somebody."""
    await _find_unknown(server, told)
    restless = list(told.executions.values())
    patience, known = time.monotonic() + SETTLE_SECONDS, 0
    async with _http(server) as http:
        client = Client(http, told, rng)
        while restless:
            resting: list[Execution] = []

            async def look(one: Execution, resting: list[Execution] = resting) -> None:
                if await _rests(http, client, one):
                    resting.append(one)

            await _each(restless, look)
            ids = {one.id for one in resting}
            restless = [one for one in restless if one.id not in ids]
            if told.counts["events"] > known:  # there is progress
                patience, known = time.monotonic() + SETTLE_SECONDS, told.counts["events"]
            if restless and time.monotonic() > patience:
                for one in restless:
                    answer = await http.get(f"/v1/executions/{one.id}/status")
                    told.violated(f"{one.id} ({one.flow}) does not come to rest: {answer.text}")
                return


async def _find_unknown(server: Server, told: Told) -> None:
    """Those whose server was killed before it could tell their clients: nobody answers them."""
    before = ""
    async with _http(server) as http:
        while page := (await http.get(f"/v1/executions?limit=1000{before}")).json()["executions"]:
            for listed in page:
                if listed["executionId"] not in told.executions:
                    one = told.of(listed["executionId"])
                    one.flow, one.left_alone = listed["flow"], True
                    told.counts["executions that no client knew"] += 1
            before = f"&before={page[-1]['executionId']}"


async def _each(
    executions: Sequence[Execution], look: Callable[[Execution], Awaitable[None]]
) -> None:
    """A few at a time."""
    left = list(executions)

    async def work() -> None:
        while left:
            await look(left.pop())

    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(work)


async def _rests(http: httpx.AsyncClient, client: Client, one: Execution) -> bool:
    poll = (await http.get(f"/v1/executions/{one.id}/status")).json()
    status = poll["status"]
    if status == "paused":
        if one.left_alone:
            return True
        await client.tail(one, max(one.events, default=0), most=1000, seconds=0.1)
        await client.answer(one)
    elif status == "failed" and poll.get("code") == "crash-loop":
        # It was driven by three servers that were killed in a row.
        await http.post(f"/v1/executions/{one.id}/retry", json={"streamResponse": False})
    return status in ("completed", "failed", "cancelled") and poll.get("code") != "crash-loop"


async def _tell_late_joiners(server: Server, told: Told) -> None:
    """Who comes when all is over is told everything, and then that there is no more."""
    async with _http(server) as http:
        client = Client(http, told, Random(0))

        async def look(one: Execution) -> None:
            if one.left_alone and not one.is_final:
                return
            await client.tail(one, 0, most=1_000_000, seconds=20)
            if not one.is_final or sorted(one.events) != list(range(1, max(one.events) + 1)):
                told.violated(f"a late joiner of {one.id} was told {sorted(one.events)}")
            elif await client.tail(one, max(one.events), most=1, seconds=20) != 204:
                told.violated(f"{one.id} has ended, and its last cursor is not answered with 204")

        await _each(list(told.executions.values()), look)


def summary(told: Told) -> str:
    """The counts, the great ones first."""
    counts = Counter(told.counts)
    first = ("kills", "stops", "executions", "events", "resumes", "duplicate resumes")
    words = [f"{counts.pop(name, 0)} {name}" for name in first]
    words += [f"{count} {name}" for name, count in sorted(counts.items())]
    return "\n".join([*words, f"{len(told.violations)} violations"])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- command line ---------------------------------------------------------------------------------


def run_soak(seconds: float, seed: int) -> int:
    folder = Path(mkdtemp(prefix="soak-"))
    told = anyio.run(soak, folder, seconds, Enough(), Random(seed))
    _say(summary(told))
    if not told.violations:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return 0
    _say("\n".join(one[:MOST_CHARACTERS] for one in told.violations[:20]))
    _say(f"kept: {folder}")
    return 1


def run_sweep(seconds: float, seed: int) -> int:
    logging.disable(logging.WARNING)  # engines that crash have much to say
    covered: Covered = Counter()
    flows, ends_at, cuts, batches = PlanFlows(), time.monotonic() + seconds, 0, 0
    while time.monotonic() < ends_at:
        rng = Random(f"{seed} {batches}")
        starts = [Start(flow="plan", inputs=plan) for plan in drawn(rng.randrange(2**32), BATCH)]
        with TemporaryDirectory() as folder:
            try:
                cuts += sweep(
                    flows,
                    starts,
                    rng.randrange(2**32),
                    Path(folder),
                    covered,
                    warm=rng.random() < 0.5,
                )
            except Violation as exc:
                _say(f"batch {batches} of seed {seed}: {exc}")
                return 1
        batches += 1
    _say(report(covered))
    _say(f"{batches * BATCH} flows, {cuts} cuts, 0 violations")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["kill", "sweep"], default="kill")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    # As Ctrl-C does: the server that was started is taken along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _say(f"seed {asked.seed}")
    run = run_sweep if asked.what == "sweep" else run_soak
    return run(asked.minutes * 60, asked.seed)


if __name__ == "__main__":
    sys.exit(main())
