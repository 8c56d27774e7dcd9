"""The cases that all clients pass: `*.json` beside this file, what is to be seen, and the judge.

A client is a `Player`: it plays a case against a URL and tells what it saw, as JSON that is the
same for all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import msgspec
import pytest

from dispatch.app import create_app
from dispatch.settings import Settings
from tests.client.flows import FLOWS
from tests.client.proxy import Proxy, Rule, proxying
from tests.serving import serve

FILES = sorted(Path(__file__).parent.glob("*.json"))
PATIENCE_SECONDS = 20.0


class ToolCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`gives` is its output, unless it `raises` or gives back one of its parameters (`echoes`).

    `beaten`: before it answers, somebody else resumes the execution with that output.
    """

    gives: Any = None
    raises: str | None = None
    echoes: str | None = None
    beaten: Any = None


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a client saw; of a case, what it is to see. `runs`: how often each tool was run.

    `error` is how its sentence begins, `raises` the code of what was raised.
    """

    events: list[Any] = []
    end: Literal["final", "turn"] | None = None
    status: str | None = None
    text: str | None = None
    result: Any = None
    error: str | None = None
    code: str | None = None
    open: list[str] = []
    runs: dict[str, int] = {}
    asked: dict[str, int] = {}
    raises: str | None = None


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """`ask`: `run` with tools, follow a `dispatch`'s leg, or `events` of an execution that was
    dispatched beside the proxy, and resumed with `given`, behind `after`; `through` turns or not.

    `cancelAt`: on that event the client cancels it. `sweep`: the case is played again and again,
    the answer to the first request cut that many bytes later each time.
    """

    name: str
    flow: str
    seen: Seen
    inputs: dict[str, Any] = {}
    ask: Literal["run", "dispatch", "events"] = "run"
    given: dict[str, Any] = {}
    after: int = 0
    through: bool = True
    tools: dict[str, ToolCase] = {}
    approvals: dict[str, Any] = {}
    cancel_at: int | None = None
    split: int | None = None
    sweep: int | None = None
    proxy: list[Rule] = []


def cases() -> list[Any]:
    """As parameters of a test."""
    found = [msgspec.json.decode(file.read_bytes(), type=list[Case]) for file in FILES]
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.sweep else [])
        for case in itertools.chain(*found)
    ]


class Play(msgspec.Struct, frozen=True, rename="camel"):
    """What a player is given: the server behind the proxy, the server itself, the execution."""

    url: str
    direct: str
    execution_id: str
    case: Case


Player = Callable[[Play], Awaitable[Seen]]


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """A server for cases. It keeps no generator in memory: whatever goes on is replayed."""
    app = create_app(FLOWS, folder / "cases.db", Settings(max_live=0))
    async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield Stage(url, http)


class Stage:
    """Where cases are played."""

    def __init__(self, url: str, http: httpx.AsyncClient):
        self._url, self._http = url, http

    async def check(self, case: Case, player: Player) -> None:
        """Play it, and judge what the player saw by what the server has."""
        if case.sweep is None:
            assert await self._play(case, case.proxy, player) == []
            return
        path = "events" if case.ask == "events" else "dispatch"
        for cut in itertools.count(0, case.sweep):
            if await self._play(case, [Rule(path, cut=cut), *case.proxy], player):
                assert cut > 4 * case.sweep
                return  # the answer has no so many bytes

    async def _play(self, case: Case, rules: list[Rule], player: Player) -> list[Rule]:
        """Gives the rules that found no request."""
        with anyio.fail_after(PATIENCE_SECONDS):
            id = await self._dispatched(case) if case.ask == "events" else ""
            proxy = Proxy(self._url, rules, case.split, self._reached)
            async with proxying(proxy) as url:
                seen = await player(Play(url, self._url, id, case))
            await self._judge(case, seen)
            return proxy.unused

    async def _judge(self, case: Case, seen: Seen) -> None:
        expected = case.seen
        said = seen.error or ""
        error = expected.error if said.startswith(expected.error or "") else said
        told = msgspec.structs.replace(seen, events=[], error=error)
        assert told == expected, f"{told}\nis not\n{expected}"
        if not seen.events:
            assert expected.raises is not None or case.after
            return
        # Each event once, in order, without a gap, as the journal has it.
        seqs = [event["seq"] for event in seen.events]
        assert seqs == list(range(case.after + 1, case.after + 1 + len(seqs)))
        id = seen.events[0]["executionId"]
        journal = (await self._http.get(f"/v1/executions/{id}/journal")).json()
        recorded = [row["payload"] for row in journal["journalEvents"]]
        assert seen.events == recorded[case.after : seqs[-1]]
        if expected.raises is None:
            assert seqs[-1] == len(recorded), (seen, recorded)

    async def _dispatched(self, case: Case) -> str:
        body = {"flow": {"id": case.flow}, "inputs": case.inputs}
        answer = await self._http.post("/v1/dispatch", json=body)
        id = answer.headers["x-execution-id"]
        if case.given:
            outputs = {"executionId": id, "toolOutputs": case.given}
            await self._http.post("/v1/dispatch/resume", json=outputs)
        return id

    async def _reached(self, status: str) -> None:
        """The newest execution has that status."""
        found = None
        while found != status:
            [newest] = (await self._http.get("/v1/executions?limit=1")).json()["executions"]
            found = newest["status"]
