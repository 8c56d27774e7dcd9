"""What is measured: each function loads one server for a moment and gives back figures by name.

Functions of one section are run in turns over its servers, round after round, so that whatever else
the machine does hits all of them alike; only figures of one run can be compared.
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec

from scripts.benchmarks.load import Answer, Connection, Server, start

Figures = dict[str, float]
Measure = Callable[[Server, "Plan"], Awaitable[Figures]]

_TEXT = b"event: text_delta"
EXECUTION = re.compile(rb'"executionId":"([^"]+)"')
CALL = re.compile(rb'.*"toolCallId":"([^"]+)"', re.DOTALL)
STAMP = re.compile(rb'"delta":"(\d+\.\d+)"')

#: Latency from yield to client: so many streams, at so many seconds between their texts.
STREAMS, EVERY_SECONDS = 64, 0.02
#: First event beside so many streams that send all they can, so many texts each.
FLAT_OUT, FLAT_OUT_TEXTS = 16, 4000
#: Beside a busy loop: flows, and how each streams.
COMMITTING = 4
#: Executions that are cut off, and how many begin at once.
CUT_OFF, BEGUN_AT_ONCE = 1000, 8
COMMIT_PACE = {"every_seconds": 0.02, "batch": 10}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how much. `count` texts of `size` characters are streamed in all.

    `suspended` and `entries`: of the files of `scale`, which are kept in `cache`.
    """

    rounds: int
    seconds: float
    count: int
    size: int
    probes: int
    suspended: tuple[int, ...]
    entries: tuple[int, ...]
    cache: Path

    @property
    def warm_up(self) -> Plan:
        """What goes before, and is not counted."""
        return msgspec.structs.replace(self, seconds=0.3, count=max(self.count // 4, 64), probes=10)


def body_of(flow: str, **inputs: object) -> dict[str, object]:
    return {"flow": {"name": flow}, "inputs": inputs}


async def _dispatch(connection: Connection, flow: str, **inputs: object) -> Answer:
    return await connection.post("/v1/dispatch", body_of(flow, **inputs), marker=_TEXT)


# --- throughput -----------------------------------------------------------------------------------


async def events_1(server: Server, plan: Plan) -> Figures:
    return {"events_1": await events_per_second(server, 1, plan.count, plan.size)}


async def events_64(server: Server, plan: Plan) -> Figures:
    return {"events_64": await events_per_second(server, 64, plan.count // 64, plan.size)}


async def events_per_second(server: Server, streams: int, count: int, size: int) -> float:
    answers: list[Answer] = []

    async def one(connection: Connection) -> None:
        answers.append(await _dispatch(connection, "tokens", count=count, size=size))

    async with server.connect(streams) as connections, anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(one, connection)
    assert all(count <= answer.events <= count + 8 for answer in answers), answers
    took = max(one.ended_at for one in answers) - min(one.sent_at for one in answers)
    return streams * count / took


async def cycles_1(server: Server, plan: Plan) -> Figures:
    return await cycles(server, plan, 1)


async def cycles_32(server: Server, plan: Plan) -> Figures:
    return await cycles(server, plan, 32)


async def full_events(server: Server, plan: Plan) -> Figures:
    """These two once more, for the section that compares ways to commit."""
    return {"full_events": await events_per_second(server, 64, plan.count // 64, plan.size)}


async def full_cycles(server: Server, plan: Plan) -> Figures:
    return {"full_cycles": (await cycles(server, plan, 32))["cycles_32"]}


async def cycles(server: Server, plan: Plan, clients: int) -> Figures:
    """Dispatch, await, resume, complete: two requests, over connections that are kept alive."""
    count = 0

    async def client(connection: Connection) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await cycle(connection)
            count += 1

    async with server.connect(clients) as connections:
        cpu_seconds = server.cpu_seconds()
        began_at = time.perf_counter()
        until = began_at + plan.seconds
        async with anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(client, connection)
        took = time.perf_counter() - began_at
        cpu_seconds = server.cpu_seconds() - cpu_seconds
    return {f"cycles_{clients}": count / took, f"cycle_cpu_ms_{clients}": cpu_seconds / count * 1e3}


async def cycle(connection: Connection) -> None:
    leg = await connection.post("/v1/dispatch", body_of("weather", city="Oslo"), keep=True)
    end = await resume_call(connection, leg)
    assert b"event: execution_complete" in end.body, end.body


def found(pattern: re.Pattern[bytes], answer: Answer) -> str:
    match = pattern.search(answer.body)
    assert match is not None, answer.body
    return match[1].decode()


# --- latency --------------------------------------------------------------------------------------


async def first_event_idle(server: Server, plan: Plan) -> Figures:
    """From the request to the flow's first text, on a server that does nothing else."""
    async with server.connect() as (connection,):
        latencies = [await _first_event(connection) for _ in range(plan.probes)]
    return in_percentiles("first_idle", latencies)


async def first_event_loaded(server: Server, plan: Plan) -> Figures:
    """The same beside streams that send all they can."""
    latencies: list[float] = []

    async def load(connection: Connection) -> None:
        while time.perf_counter() < until:
            await _dispatch(connection, "tokens", count=FLAT_OUT_TEXTS, size=plan.size)

    async with server.connect(FLAT_OUT + 1) as (prober, *connections):
        until = time.perf_counter() + plan.seconds
        async with anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(load, connection)
            while time.perf_counter() < until:
                await anyio.sleep(random.uniform(0.005, 0.02))
                latencies.append(await _first_event(prober))
    return in_percentiles("first_loaded", latencies)


async def _first_event(connection: Connection) -> float:
    return latency(await _dispatch(connection, "tokens", count=1, size=4))


async def delay(server: Server, plan: Plan) -> Figures:
    """From a text's being yielded to its arrival, over many streams at the pace of a model."""
    delays: list[float] = []
    # The machine's clock: `perf_counter` is one for all its processes.
    counts_from = time.perf_counter() + 0.5

    def watch(piece: bytes, now: float) -> None:
        if now > counts_from:
            delays.extend((now - float(stamp)) * 1e3 for stamp in STAMP.findall(piece))

    async def stream(connection: Connection) -> None:
        # Models are not in step. Nor are flows that were begun by one commit: a phase drawn here
        # would be lost there, and each server would get another load.
        phase = random.uniform(0, EVERY_SECONDS)
        seconds = plan.seconds + 0.5
        body = body_of("stamped", seconds=seconds, every_seconds=EVERY_SECONDS, phase_seconds=phase)
        await connection.post("/v1/dispatch", body, watch=watch)

    async with server.connect(STREAMS) as connections, anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(stream, connection)
    return in_percentiles("delay", delays)


def in_percentiles(figure: str, values: Sequence[float]) -> Figures:
    return {f"{figure}_p{percent}": percentile(values, percent) for percent in (50, 99)}


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]


# --- resume ---------------------------------------------------------------------------------------


def resume(figure: str, entries: int, share: int = 1) -> Measure:
    """From a resume to the flow's next text, with a journal of about so many entries, over
    `1/share` of the probes, each of an execution of its own.
    """

    async def measure(server: Server, plan: Plan) -> Figures:
        latencies: list[float] = []
        async with server.connect() as (connection,):
            for _ in range(max(plan.probes // share, 1)):
                body = body_of("aged", entries=entries)
                leg = await connection.post("/v1/dispatch", body, keep=True)
                latencies.append(latency(await resume_call(connection, leg)))
        return in_percentiles(figure, latencies)

    return measure


def resume_again(figure: str, entries: int, flow: str = "aged") -> Measure:
    """The same, of a journal too long to be written anew each time: one execution for each server,
    which each resume makes a few entries longer.
    """
    legs: dict[Server, Answer] = {}

    async def measure(server: Server, plan: Plan) -> Figures:
        async with server.connect() as (connection,):
            if server not in legs:
                body = body_of(flow, entries=entries)
                legs[server] = await connection.post("/v1/dispatch", body, keep=True)
            leg = legs[server] = await resume_call(connection, legs[server])
        return {figure: latency(leg)}

    return measure


async def resume_call(connection: Connection, leg: Answer) -> Answer:
    """Answer the call that `leg` has ended with."""
    outputs = {found(CALL, leg): "mild"}
    return await connection.post(
        "/v1/dispatch/resume",
        {"executionId": found(EXECUTION, leg), "toolOutputs": outputs},
        marker=_TEXT,
        keep=True,
    )


def latency(answer: Answer) -> float:
    return (answer.first_at - answer.sent_at) * 1e3


# --- commits --------------------------------------------------------------------------------------


async def commits(server: Server, plan: Plan) -> Figures:
    """How long appends take, with the loop at rest and with a coroutine that burns it in turns."""
    figures: Figures = {}
    async with server.connect(COMMITTING + 1) as (control, *connections):
        for name, path in (("rest", "/bench/rest"), ("burn", "/bench/burn")):
            await control.post(path, {})
            async with anyio.create_task_group() as tasks:
                for connection in connections:
                    body = body_of("stamped", seconds=plan.seconds, **COMMIT_PACE)
                    tasks.start_soon(connection.post, "/v1/dispatch", body)
            told = await control.post("/bench/rest", {}, keep=True)
            millis = [seconds * 1e3 for seconds in msgspec.json.decode(told.body, type=list[float])]
            figures |= in_percentiles(f"commit_{name}", millis)
    return figures


# --- recovery -------------------------------------------------------------------------------------


async def recovery(server: Server, plan: Plan) -> Figures:
    """From a server's being ready until so many executions that its SIGKILL cut off run again, and
    first events of new dispatches meanwhile. The server given is at rest.
    """
    count = max(min(plan.count // 64, CUT_OFF), 64)
    with TemporaryDirectory(prefix="dispatch-bench-") as name:
        folder = Path(name)
        async with start(server.kind, folder) as first:
            await _begin_waiting(first, count)
            first.kill()
        with closing(sqlite3.connect(folder / f"{server.kind}.db")) as db:
            cut_off = _entries(db)
            async with start(server.kind, folder) as second, second.connect() as (connection,):
                ready_at = time.perf_counter()
                meanwhile = []
                # Each is attempted again, which is an entry.
                while _entries(db) < cut_off + count:
                    meanwhile.append(await _first_event(connection))
                took = time.perf_counter() - ready_at
                idle = [await _first_event(connection) for _ in range(plan.probes)]
    return {
        "recovery_seconds": took * CUT_OFF / count,
        "recovery_first_p99": percentile(meanwhile, 99),
        "recovery_first_idle_p99": percentile(idle, 99),
    }


async def _begin_waiting(server: Server, count: int) -> None:
    """Streams that never end: their connections are closed."""

    async def begin(connection: Connection) -> None:
        begun = anyio.Event()

        def watch(piece: bytes, _: float) -> None:
            if b"event: step_start" in piece:
                begun.set()

        async with anyio.create_task_group() as tasks:
            post = partial(connection.post, "/v1/dispatch", body_of("waiting"), watch=watch)
            tasks.start_soon(post)
            await begun.wait()
            tasks.cancel_scope.cancel()

    for _ in range(0, count, BEGUN_AT_ONCE):
        async with (
            server.connect(BEGUN_AT_ONCE) as connections,
            anyio.create_task_group() as tasks,
        ):
            for connection in connections:
                tasks.start_soon(begin, connection)


def _entries(db: sqlite3.Connection) -> int:
    statement = "SELECT sum(last_seq) FROM executions WHERE flow = 'waiting'"
    return int(db.execute(statement).fetchone()[0] or 0)
