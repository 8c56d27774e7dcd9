"""Measures of reading: one execution told to many, and a journal read from its start."""

from __future__ import annotations

import time
from typing import NamedTuple

import anyio

from scripts.benchmarks.load import Answer, Connection, Server, Watch
from scripts.benchmarks.measures import (
    CALL,
    EXECUTION,
    STAMP,
    Figures,
    Measure,
    Plan,
    body_of,
    found,
    in_percentiles,
)

#: Events of a finished journal that is caught up with.
CAUGHT_UP = 100_000
#: Seconds between the texts whose arrival at each subscriber is timed.
ANNOUNCED_EVERY_SECONDS = 0.1


def fan_out(subscribers: int) -> Measure:
    """Events/s that arrive in all, and what each costs the server: `subscribers` follow one
    execution that streams all it can. About as many events arrive however many they are.
    """

    async def measure(server: Server, plan: Plan) -> Figures:
        count = max(10 * plan.count // max(subscribers, 10), 1)
        body = body_of("told", count=count, size=plan.size)
        told = await _tell(server, subscribers, body)
        answers = told.answers
        assert all(count <= answer.events <= count + 8 for answer in answers), answers
        arrived = count * subscribers
        took = max(answer.ended_at for answer in answers) - told.began_at
        return {
            f"fan_out_{subscribers}": arrived / took,
            f"fan_out_cpu_us_{subscribers}": told.cpu_seconds / arrived * 1e6,
        }

    return measure


def arrival(subscribers: int) -> Measure:
    """How long a text takes to a subscriber, when it goes to so many and nothing else happens."""

    async def measure(server: Server, plan: Plan) -> Figures:
        delays: list[float] = []

        def watch(piece: bytes, now: float) -> None:
            delays.extend((now - float(stamp)) * 1e3 for stamp in STAMP.findall(piece))

        every = ANNOUNCED_EVERY_SECONDS
        body = body_of("announced", seconds=plan.seconds, every_seconds=every)
        await _tell(server, subscribers, body, watch)
        return in_percentiles(f"arrival_{subscribers}", delays)

    return measure


class _Told(NamedTuple):
    answers: list[Answer]
    began_at: float
    cpu_seconds: float


async def _tell(
    server: Server, subscribers: int, body: dict[str, object], watch: Watch | None = None
) -> _Told:
    """Have an execution go on once all of its subscribers listen, and all of them hear its end."""
    answers: list[Answer] = []
    async with server.connect(subscribers + 1) as (caller, *readers):
        leg = await caller.post("/v1/dispatch", body, keep=True)
        path = f"/v1/executions/{found(EXECUTION, leg)}/events?after={leg.events}"
        silent, everybody_listens = subscribers, anyio.Event()

        def listen(piece: bytes, now: float) -> None:
            nonlocal silent
            silent -= 1
            if silent == 0:
                everybody_listens.set()
            if watch is not None:
                watch(piece, now)

        async def read(reader: Connection) -> None:
            answers.append(await reader.get(path, watch=listen))

        async with anyio.create_task_group() as tasks:
            for reader in readers:
                tasks.start_soon(read, reader)
            await everybody_listens.wait()
            cpu_seconds, began_at = server.cpu_seconds(), time.perf_counter()
            outputs = {found(CALL, leg): 1}
            resumed = {"executionId": found(EXECUTION, leg), "toolOutputs": outputs}
            await caller.post("/v1/dispatch/resume", resumed)
        return _Told(answers, began_at, server.cpu_seconds() - cpu_seconds)


def catch_up(readers: int) -> Measure:
    """Events/s that arrive in all when `readers` read a finished journal at once."""
    finished: dict[Server, str] = {}

    async def measure(server: Server, plan: Plan) -> Figures:
        answers: list[Answer] = []
        async with server.connect(readers) as connections:
            if server not in finished:
                body = body_of("tokens", count=CAUGHT_UP, size=plan.size)
                leg = await connections[0].post("/v1/dispatch", body, keep=True)
                finished[server] = found(EXECUTION, leg)
            path = f"/v1/executions/{finished[server]}/events"

            async def read(number: int) -> None:
                answers.append(await connections[number].get(path))

            async with anyio.create_task_group() as tasks:
                for number in range(readers):
                    tasks.start_soon(read, number)
        took = max(one.ended_at for one in answers) - min(one.sent_at for one in answers)
        assert all(answer.events > CAUGHT_UP for answer in answers), answers
        return {f"catch_up_{readers}": readers * CAUGHT_UP / took}

    return measure
