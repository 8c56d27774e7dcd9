"""One round over this server and its peers, one after the other: while one is measured no other one
is there to poll, flush or sweep. Every round has them in another order.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from scripts.benchmarks.load import Answer, Server, start
from scripts.benchmarks.measures import Figures, Plan, latency
from scripts.benchmarks.peers.clients import Client, connect
from scripts.benchmarks.peers.environments import is_installed, python_of
from scripts.benchmarks.peers.known import OURS, PEERS, Peer

#: Runs that wait when a SIGKILL comes, and how many of them, the newest, are then answered.
SUSPENDED, KILLED = 128, 50
CLIENTS, STREAMS = 32, 16
FIRST_EVENTS = 5
#: A run that has not ended so long after its answer is lost.
RESUME_SECONDS = 5
#: Nothing that is measured here takes a peer so long.
MEASURE_SECONDS = 120


async def peers(plan: Plan, _: Path) -> dict[str, Figures]:
    """Those that are installed. Of one that fails nothing is told but the reason."""
    figures: dict[str, Figures] = {}
    present = [OURS, *(peer for peer in PEERS if is_installed(peer, plan.cache))]
    for peer in random.sample(present, len(present)):
        with TemporaryDirectory(prefix="dispatch-bench-") as name:
            try:
                with anyio.fail_after(MEASURE_SECONDS):
                    figures[peer.kind] = await _measure(peer, plan, Path(name))
            except Exception as exc:
                if peer is OURS:
                    raise
                # The other ones are measured all the same.
                print(f"{peer.kind}: left out: {_reason(exc, Path(name))}", file=sys.stderr)
    return figures


async def _measure(peer: Peer, plan: Plan, folder: Path) -> Figures:
    one_run, each_of_many = peer.texts
    async with _start(peer, plan, folder) as server:
        await _all(peer, server, CLIENTS, _cycle)
        figures = {
            "peer_first_event": await _first_event(peer, server, plan),
            "peer_cycles_1": await _cycles(peer, server, plan, 1),
            "peer_cycles_32": await _cycles(peer, server, plan, CLIENTS),
            "peer_events_1": await _events(peer, server, 1, one_run, plan.size),
            "peer_events_16": await _events(peer, server, STREAMS, each_of_many, plan.size),
        }
    # Of a server that has done little before, for memory that was used is not given back.
    async with _start(peer, plan, folder) as server:
        await _all(peer, server, CLIENTS, _cycle)
        idle = server.memory_bytes()
        runs = await _begin(peer, server, SUSPENDED)
        figures["peer_idle_mib"] = idle / 2**20
        figures["peer_suspended_kib"] = (server.memory_bytes() - idle) / SUSPENDED / 2**10
        server.kill()
    async with _start(peer, plan, folder) as server:
        figures["peer_resumed"] = await _finish(peer, server, runs[-KILLED:])
    return figures


def _start(peer: Peer, plan: Plan, folder: Path) -> AbstractAsyncContextManager[Server]:
    if peer is OURS:
        return start(peer.kind, folder)
    module = f"scripts.benchmarks.peers.apps.{peer.app}"
    python, db = python_of(peer, plan.cache), folder / "peer.db"
    command = (str(python), "-m", module, str(db), *peer.arguments)
    return start(peer.kind, folder, command=command)


def _reason(exc: Exception, folder: Path) -> str:
    log = folder / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([repr(exc), *lines[-5:]])


# --- what is measured -----------------------------------------------------------------------------


async def _first_event(peer: Peer, server: Server, plan: Plan) -> float:
    async with connect(peer.client, server, 1) as (client,):
        answers = [await client.stream(1, plan.size) for _ in range(FIRST_EVENTS)]
    return statistics.median(latency(answer) for answer in answers)


async def _cycles(peer: Peer, server: Server, plan: Plan, clients: int) -> float:
    count = 0
    began_at = time.perf_counter()
    until = began_at + plan.seconds

    async def cycles(client: Client) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await _cycle(client)
            count += 1

    await _all(peer, server, clients, cycles)
    return count / (time.perf_counter() - began_at)


async def _cycle(client: Client) -> None:
    await client.finish(await client.begin())


async def _events(peer: Peer, server: Server, streams: int, count: int, size: int) -> float:
    answers: list[Answer] = []

    async def stream(client: Client) -> None:
        answers.append(await client.stream(count, size))

    await _all(peer, server, streams, stream)
    assert all(count <= answer.events <= count + 8 for answer in answers), answers
    took = max(one.ended_at for one in answers) - min(one.sent_at for one in answers)
    return streams * count / took


async def _begin(peer: Peer, server: Server, count: int) -> list[str]:
    """Runs that wait, and nobody listens to."""
    runs: list[str] = []

    async def begin(client: Client) -> None:
        runs.append(await client.begin())

    while len(runs) < count:
        await _all(peer, server, min(count - len(runs), CLIENTS), begin)
    return runs


async def _finish(peer: Peer, server: Server, runs: list[str]) -> int:
    """How many of `runs` end once they are answered. Each has a client of its own: one whose run is
    lost is still waiting for it.
    """
    left, ended = list(runs), 0

    async def finish(client: Client) -> None:
        nonlocal ended
        run = left.pop()
        # One that is refused is lost as well.
        with anyio.move_on_after(RESUME_SECONDS), suppress(RuntimeError):
            await client.finish(run)
            ended += 1

    while left:
        await _all(peer, server, min(len(left), CLIENTS), finish)
    return ended


async def _all(
    peer: Peer, server: Server, count: int, one: Callable[[Client], Coroutine[Any, Any, None]]
) -> None:
    """`one` with each of so many clients at once."""
    async with connect(peer.client, server, count) as clients, anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(one, client)
