"""Two servers on one file: one is stopped for longer than its lease and goes on, both are killed.

`python -m tests.crash.two_servers --executions 500` does it at length; `… serve DB` is one of the
servers.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import anyio
import httpx
import msgspec

from dispatch import listening, loader
from dispatch.app import WallClock, create_app
from dispatch.core.errors import LeaseLost
from dispatch.core.journal import AttemptStarted, Origin, text_delta
from dispatch.core.lifecycle import Status
from dispatch.flow import Registry
from dispatch.settings import Settings
from dispatch.store.sqlite import SqliteStore
from tests.crash.cuts import each_journal
from tests.crash.stepping import STEPS
from tests.crash.sweep import check_entries
from tests.crash.watch import Violation

LEASE_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
ATTEMPT = "dispatch.step_attempt"


class Server(NamedTuple):
    url: str
    process: subprocess.Popen[str]

    @property
    def counters(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/v1/counters", trust_env=False).json()
        return found


class Counts(NamedTuple):
    """What was seen, beside that all is as it has to be."""

    taken: int  # executions from the one that stood still
    fenced: int  # appends that were tried with an old token, and refused
    kills: int
    calls: int  # of steps
    repeated: int  # of those, not the first of their step


def serve(db: str) -> None:
    flows = Registry(loader.load([str(Path(__file__).with_name("stepping.py"))]))
    app = create_app(flows, db, Settings(db=db, lease_seconds=LEASE_SECONDS))
    sock = listening.listen("127.0.0.1", 0)

    def ready() -> None:
        sys.stdout.write(f"ready {listening.address_of(sock)}\n")
        sys.stdout.flush()

    anyio.run(partial(listening.serve, app, sock, shutdown_seconds=2.0, ready=ready))


@contextmanager
def serving(db: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.crash.two_servers", "serve", str(db)]
    environment = os.environ | {
        "DISPATCH_TRACES": str(db.with_name("traces.txt")),
        "DISPATCH_JOURNALS": str(db),
    }
    with (
        db.with_name("servers.log").open("a") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield Server(process.stdout.readline().split()[1], process)
        finally:
            process.kill()


# --- what is done to them -------------------------------------------------------------------------


def stop_outside_a_transaction(server: Server, db: Path) -> None:
    """SIGSTOP, where it does not hold the right to write."""
    while True:
        server.process.send_signal(signal.SIGSTOP)
        if _others_can_write(db, 0.1):
            return
        server.process.send_signal(signal.SIGCONT)
        # Stopped again at once it would still be in the same transaction.
        _others_can_write(db, 2.0)


def _others_can_write(db: Path, seconds: float) -> bool:
    with closing(sqlite3.connect(db, timeout=seconds, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        other.execute("ROLLBACK")
    return True


def until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def asked(db: Path, question: str, *parameters: object) -> Any:
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True, timeout=10)) as other:
        return other.execute(question, parameters).fetchone()[0]


def held(db: Path, server: Server) -> int:
    workers = "SELECT id FROM workers WHERE process LIKE ?"
    question = f"SELECT count(*) FROM executions WHERE worker IN ({workers})"  # noqa: S608
    return int(asked(db, question, f"{server.process.pid}-%"))


def dispatch(server: Server, count: int) -> list[str]:
    """The ids of executions that go on without their client."""
    made = []
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        for _ in range(count):
            with http.stream("POST", "/v1/dispatch", json={"flow": {"id": "walk"}}) as answer:
                assert answer.status_code == 200
                made.append(answer.headers["x-execution-id"])
    return made


def trial(folder: Path, executions: int, kills: int, rng: Random) -> Counts:
    """All of it, and what became of it, checked."""
    db = folder / "two.db"
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(db)) for _ in range(2)]
        still, other = servers
        ids = [id for server in (other, still) for id in dispatch(server, executions // 2)]
        stop_outside_a_transaction(still, db)
        taken = held(db, still)
        until(lambda: held(db, still) == 0)
        assert other.counters["takenOver"] >= taken
        still.process.send_signal(signal.SIGCONT)
        until(lambda: still.counters["commits"] > 0)
        fenced = still.counters["appendsFenced"] + anyio.run(try_old_tokens, db)
        for _ in range(kills):
            time.sleep(rng.uniform(0.1, 1.0))
            number = rng.randrange(2)
            servers[number].process.kill()
            servers[number] = stack.enter_context(serving(db))
        until(lambda: asked(db, "SELECT count(*) FROM executions WHERE ended_at IS NULL") == 0)
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
    return judged(db, ids, Counts(taken, fenced, kills, 0, 0))


async def try_old_tokens(db: Path) -> int:
    """How many appends were refused, of one for each token that was ever held and is not now."""
    refused = 0
    store = SqliteStore(db, clock=WallClock(), lease_seconds=LEASE_SECONDS)
    async with store.session("intruder"):
        for row in await store.executions(limit=1000):
            for token in range(1, row.token):
                with suppress(LeaseLost):
                    await store.append(row.id, [text_delta("t", "x", Origin.FLOW)], token=token)
                    raise Violation(f"{row.id} can be appended to with {token}: {row}")
                refused += 1
    return refused


# --- what became of it ----------------------------------------------------------------------------


def judged(db: Path, ids: Sequence[str], counts: Counts) -> Counts:
    called: dict[tuple[str, int], list[int]] = {}
    calls = db.with_name("traces.txt").read_text().splitlines()
    for call in calls:
        execution_id, step, attempt, _ = call.split()
        called.setdefault((execution_id, int(step)), []).append(int(attempt))
    journals = {journal.execution.id: journal for journal in each_journal(db)}
    assert set(journals) == set(ids)
    for journal in journals.values():
        check_entries(journal.entries)
        recorded = Counter(
            entry.payload(AttemptStarted).step_id
            for entry in journal.entries
            if entry.kind == ATTEMPT
        )
        row = journal.execution
        assert (row.status, row.worker, row.runnable) == (Status.COMPLETED, None, False)
        results = [
            msgspec.json.decode(entry.data)["result"]
            for entry in journal.entries
            if entry.kind == "step_complete"
        ]
        if results != list(range(STEPS)):
            raise Violation(f"{row.id} has the results {results}")
        attempts = [called.get((row.id, number), []) for number in range(STEPS)]
        # Each attempt is called once at most, by whoever holds the lease. A call reads which it is
        # from the journal: one that is stopped before it has read takes itself for a later one.
        for calls_of, count in zip(attempts, recorded.values(), strict=True):
            early = any(read < place for place, read in enumerate(sorted(calls_of), 1))
            if not calls_of or early or len(calls_of) > count:
                raise Violation(f"{row.id} was called {attempts}, of {list(recorded.values())}")
    return counts._replace(calls=len(calls), repeated=len(calls) - len(called))


def main() -> None:
    parser = argparse.ArgumentParser(prog="two_servers", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["serve"])
    parser.add_argument("db", nargs="?")
    parser.add_argument("--executions", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if options.what == "serve":
        return serve(options.db)
    with TemporaryDirectory() as folder:
        began = time.monotonic()
        counts = trial(Path(folder), options.executions, options.kills, Random(options.seed))
        seconds = time.monotonic() - began
        sys.stdout.write(f"seed {options.seed}, {seconds:.0f} s: {counts}\n")
    return None


if __name__ == "__main__":
    main()
