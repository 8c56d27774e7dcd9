"""Measures of reading: one execution told to many, and a journal read from its start."""

from __future__ import annotations

import time

import anyio

from scripts.benchmarks.load import Answer, Server
from scripts.benchmarks.measures import (
    CALL,
    EXECUTION,
    Figures,
    Measure,
    Plan,
    body_of,
    found,
)

#: Events of a finished journal that is caught up with.
CAUGHT_UP = 100_000


def fan_out(subscribers: int) -> Measure:
    """Events/s that arrive in all, and what each costs the server: `subscribers` follow one
    execution that streams all it can. About as many events arrive however many they are.
    """

    async def measure(server: Server, plan: Plan) -> Figures:
        count = max(10 * plan.count // max(subscribers, 10), 1)
        answers: list[Answer] = []
        async with server.connect(subscribers + 1) as (caller, *readers):
            body = body_of("told", count=count, size=plan.size)
            leg = await caller.post("/v1/dispatch", body, keep=True)
            path = f"/v1/executions/{found(EXECUTION, leg)}/events?after={leg.events}"
            listening, everybody_listens = 0, anyio.Event()

            def watch(_: bytes, now: float) -> None:
                nonlocal listening
                listening += 1
                if listening >= subscribers:
                    everybody_listens.set()

            async def read(number: int) -> None:
                answers.append(await readers[number].get(path, watch=watch))

            async with anyio.create_task_group() as tasks:
                for number in range(subscribers):
                    tasks.start_soon(read, number)
                await everybody_listens.wait()
                cpu_seconds, began_at = server.cpu_seconds(), time.perf_counter()
                outputs = {
                    "executionId": found(EXECUTION, leg),
                    "toolOutputs": {found(CALL, leg): 1},
                }
                await caller.post("/v1/dispatch/resume", outputs)
            took = max(answer.ended_at for answer in answers) - began_at
            cpu_seconds = server.cpu_seconds() - cpu_seconds
        assert all(count <= answer.events <= count + 8 for answer in answers), answers
        arrived = count * subscribers
        return {
            f"fan_out_{subscribers}": arrived / took,
            f"fan_out_cpu_us_{subscribers}": cpu_seconds / arrived * 1e6,
        }

    return measure


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
