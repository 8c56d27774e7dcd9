"""Clients of servers that are killed under them, and what each of them was told.

`Told` keeps every event that any client saw, every answer that was acknowledged, and every request
that was refused; `judge` holds that against the journals.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import anyio
import httpx

from dispatch.core.wire import FrameDecoder

FLOWS = (
    "single",
    "parallel",
    "racing",
    "decided",
    "napping",
    "sections",
    "undoing",
    "talking",
)
FINAL = ("execution_complete", "execution_error")
ASKING = ("await", "approval_start")
_GONE = (httpx.TransportError, httpx.StreamError)


class Call(NamedTuple):
    """Something a client can answer. `kind` is `await` or `approval_start`."""

    execution_id: str
    id: str
    kind: str


@dataclass
class Execution:
    """All that clients know of one. Each output and each reason is a marker of its own."""

    id: str
    flow: str = ""
    events: dict[int, str] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    is_final: bool = False
    is_cancelled: bool = False
    left_alone: bool = False  # so that at the end some wait for an answer


@dataclass
class Told:
    """What was acknowledged (`answers`), refused (marker by marker of an execution, with why), or
    got no answer (`maybe`).
    """

    executions: dict[str, Execution] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    answers: dict[Call, list[Any]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    maybe: set[str] = field(default_factory=set)
    gaps: list[tuple[str, int, int]] = field(default_factory=list)

    def violated(self, what: str) -> None:
        self.violations.append(what)

    def of(self, execution_id: str) -> Execution:
        return self.executions.setdefault(execution_id, Execution(execution_id))

    def event(self, event: dict[str, Any], data: str) -> Execution:
        """A client was told this."""
        found, seq = self.of(event["executionId"]), event["seq"]
        before = found.events.setdefault(seq, data)
        if before != data:
            self.violated(f"{found.id} {seq} was told as {before}, and as {data}")
        self.counts["events"] += 1
        if event["type"] in ASKING:
            id = event.get("toolCallId") or event["approvalId"]
            found.calls[id] = Call(found.id, id, event["type"])
        if event["type"] in FINAL:
            found.is_final = True
        return found


@asynccontextmanager
async def client_of(urls: Sequence[str], told: Told, rng: Random) -> AsyncIterator[Client]:
    timeout = httpx.Timeout(30.0)
    async with httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
        yield Client(http, urls, told, rng)


class Client:
    """One client, which does what clients do until it is told to stop; each request at any of the
    servers.
    """

    def __init__(self, http: httpx.AsyncClient, urls: Sequence[str], told: Told, rng: Random):
        self._http, self._urls, self._told, self._rng = http, urls, told, rng

    async def act(self) -> None:
        """One thing, whatever comes of it."""
        told, rng = self._told, self._rng
        unfinished = [one for one in told.executions.values() if not one.is_final]
        try:
            if not unfinished or rng.random() < 0.25:
                await self.dispatch(rng.choice(FLOWS), streams=rng.random() < 0.8)
                return
            one = rng.choice(unfinished[-60:])
            deed = rng.choices(
                [self._answer, self._tail, self._repeat, self._cancel, self._ask_nonsense],
                [8, 4, 5, 1, 1],
            )[0]
            await deed(one)
        except _GONE:
            told.counts["broken connections"] += 1
            await self._pause()

    async def _pause(self) -> None:
        await anyio.sleep(self._rng.uniform(0.02, 0.2))

    # --- deeds ------------------------------------------------------------------------------------

    async def dispatch(self, flow: str, *, streams: bool) -> None:
        body = {"flow": {"id": flow}, "options": {"streamResponse": streams}}
        async with self._post("/v1/dispatch", body) as answer:
            if answer.status_code // 100 != 2:
                self._told.counts[f"dispatch {answer.status_code}"] += 1
                return
            one = self._told.of(answer.headers["x-execution-id"])
            one.flow, one.left_alone = flow, self._rng.random() < 0.05
            self._told.counts["executions"] += 1
            if streams:
                await self._read(answer, first=1)
            else:
                await answer.aread()

    async def _tail(self, one: Execution) -> None:
        """From anywhere, for a while."""
        rng = self._rng
        last = max(one.events, default=0)
        after = rng.choice([0, last, rng.randint(0, last)])
        await self.tail(one, after, most=rng.choice([1, 5, 20, 1000]), seconds=rng.uniform(0.2, 3))

    async def tail(self, one: Execution, after: int, *, most: int, seconds: float) -> int:
        """Follow; give back the status."""
        self._told.counts["tails"] += 1
        cursor = {"last-event-id": str(after)} if self._rng.random() < 0.5 else {}
        url = f"/v1/executions/{one.id}/events" + ("" if cursor else f"?after={after}")
        with anyio.move_on_after(seconds):
            async with self._http.stream("GET", self._at(url), headers=cursor) as answer:
                if answer.status_code == 200:
                    await self._read(answer, first=after + 1, most=most, is_leg=False)
                elif answer.status_code == 400 and one.events and after <= max(one.events):
                    self._told.violated(f"{one.id} was known up to {after}, and now it is ahead")
                elif answer.status_code not in (204, 503):
                    self._told.violated(f"tail of {one.id} after {after}: {answer.status_code}")
                return answer.status_code
        return 0

    async def _answer(self, one: Execution) -> None:
        if one.left_alone:
            return
        await self.answer(one)

    async def answer(self, one: Execution) -> None:
        """Answer some or all of what was asked, sometimes twice at once."""
        rng = self._rng
        unanswered = [call for call in one.calls.values() if call not in self._told.answers]
        if not unanswered:
            await self.tail(one, max(one.events, default=0), most=10, seconds=0.5)
            return
        rng.shuffle(unanswered)
        tools = [call for call in unanswered if call.kind == "await"]
        if not tools:
            await self._approve(unanswered[0])
            return
        some = tools[: rng.choice([1, len(tools)])]
        twice = rng.random()
        async with anyio.create_task_group() as tasks:
            outputs = {call: self._marker() for call in some}
            tasks.start_soon(self._resume, one, outputs)
            if twice < 0.15:
                tasks.start_soon(self._resume, one, dict(outputs))
                self._told.counts["two equal at once"] += 1
            elif twice < 0.3:
                tasks.start_soon(self._resume, one, {call: self._marker() for call in some})
                self._told.counts["two unequal at once"] += 1

    async def _repeat(self, one: Execution) -> None:
        """Bring again what was taken before: changes nothing, and is answered."""
        taken = [call for call in one.calls.values() if self._told.answers.get(call)]
        tools = [call for call in taken if call.kind == "await"]
        if tools:
            call = self._rng.choice(tools)
            await self._resume(one, {call: self._told.answers[call][0]}, is_repeat=True)

    async def _cancel(self, one: Execution) -> None:
        if self._rng.random() < 0.5 or one.left_alone:
            return
        async with self._post(f"/v1/executions/{one.id}/cancel", {"reason": "enough"}) as answer:
            await answer.aread()
            if answer.status_code == 200:
                self._told.counts["cancels"] += 1
                one.is_cancelled = True
                status = answer.json()["status"]
                if status != "cancelled":
                    self._told.violated(f"{one.id} was cancelled, and is {status}")

    async def _ask_nonsense(self, one: Execution) -> None:
        """What must be refused, and change nothing."""
        if self._rng.random() < 0.5:
            after = max(one.events, default=0) + 1_000_000
            answer = await self._http.get(f"/v1/executions/{one.id}/events?after={after}")
            if answer.status_code not in (400, 503):
                self._told.violated(f"{one.id} after {after}: {answer.status_code}")
            return
        marker = self._marker()
        body = {"executionId": one.id, "toolOutputs": {"nonsense": marker}}
        async with self._post("/v1/dispatch/resume", body) as answer:
            await answer.aread()
            if answer.status_code // 100 == 2:
                self._told.violated(f"nonsense was taken by {one.id}")
            self._told.refused[one.id][marker] = f"{answer.status_code} nonsense"

    async def status(self, one: Execution) -> Any:
        return (await self._http.get(self._at(f"/v1/executions/{one.id}/status"))).json()

    async def retry(self, one: Execution) -> None:
        path = f"/v1/executions/{one.id}/retry"
        await self._http.post(self._at(path), json={"streamResponse": False})

    async def listed(self) -> AsyncIterator[tuple[str, str]]:
        """Id and flow of every execution that there is."""
        before = ""
        while page := (await self._http.get(self._at(f"/v1/executions?limit=1000{before}"))).json()[
            "executions"
        ]:
            for one in page:
                yield one["executionId"], one["flow"]
            before = f"&before={page[-1]['executionId']}"

    # --- requests ---------------------------------------------------------------------------------

    async def _resume(
        self, one: Execution, outputs: dict[Call, str], *, is_repeat: bool = False
    ) -> None:
        body = {
            "executionId": one.id,
            "toolOutputs": {call.id: output for call, output in outputs.items()},
            "streamResponse": self._rng.random() < 0.7,
        }
        told = self._told
        told.counts["duplicate resumes" if is_repeat else "resumes"] += 1
        try:
            async with self._post("/v1/dispatch/resume", body) as answer:
                if answer.status_code // 100 == 2:
                    for call, output in outputs.items():
                        told.answers[call].append(output)
                    if body["streamResponse"]:
                        await self._read(answer, first=None)
                    else:
                        await answer.aread()
                    return
                await answer.aread()
                code = answer.json().get("code")
        except _GONE:
            # Without an answer it may have been taken, or not; two of these may run side by side.
            told.maybe.update(outputs.values())
            told.counts["broken connections"] += 1
            await self._pause()
            return
        told.counts[f"resume {answer.status_code} {code}"] += 1
        if is_repeat and answer.status_code != 503:
            told.violated(f"{one.id}: {outputs} was taken, and is now {answer.text}")
        if not is_repeat:
            for output in outputs.values():
                told.refused[one.id].setdefault(output, f"{answer.status_code} {code}")
        gone = ("await-abandoned", "await-settled", "await-expired", "not-waiting")
        if code in gone and len(outputs) == 1:
            # Somebody else was first: nobody needs to try again. (Of several, who knows which.)
            for call in outputs:
                told.answers.setdefault(call, [])

    async def _approve(self, call: Call) -> None:
        told, reason = self._told, self._marker()
        decision = self._rng.choice(["approved", "denied"])
        body = {
            "executionId": call.execution_id,
            "approvalId": call.id,
            "decision": decision,
            "reason": reason,
        }
        told.counts["approvals"] += 1
        told.maybe.add(reason)
        path = self._rng.choice(["/v1/dispatch/approve", "/v1/agents/any/approve"])
        async with self._post(path, body) as answer:
            if answer.status_code // 100 == 2:
                told.answers[call].append(decision)
                await self._read(answer, first=None)
                return
            await answer.aread()
            told.counts[f"approve {answer.status_code} {answer.json().get('code')}"] += 1
            told.refused[call.execution_id][reason] = f"{answer.status_code}"
            told.maybe.discard(reason)
            if answer.status_code in (409, 410):
                told.answers.setdefault(call, [])

    @asynccontextmanager
    async def _post(self, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        async with self._http.stream("POST", self._at(path), json=body) as answer:
            yield answer

    def _at(self, path: str) -> str:
        return self._rng.choice(self._urls) + path

    async def _read(
        self,
        answer: httpx.Response,
        *,
        first: int | None,
        most: int | None = None,
        is_leg: bool = True,
    ) -> None:
        """Read a stream until its end, or until there was enough of it; then just leave."""
        decoder, told, expected, last = FrameDecoder(), self._told, first, ""
        patience = most or self._rng.choice([1, 3, 10, 1000, 1000, 1000])
        # Who says how much it wants waits for it, as long as its caller does.
        leaves_after = None if most else self._rng.uniform(0.5, 4)
        with anyio.move_on_after(leaves_after) as impatient:
            async for piece in answer.aiter_raw():
                for frame in decoder.feed(piece):
                    event = json.loads(frame.data)
                    last = event["type"]
                    if last == "ping":
                        continue
                    one, seq = told.event(event, frame.data), event["seq"]
                    if frame.id != str(seq) or one.id != answer.headers["x-execution-id"]:
                        told.violated(f"frame {frame} of {one.id}")
                    if expected is not None and seq != expected:
                        told.gaps.append((one.id, expected, seq))
                        if first is not None:
                            told.violated(f"{one.id}: {seq} came where {expected} was due")
                    expected, patience = seq + 1, patience - 1
                if patience <= 0:
                    return
        ends = {*FINAL, *ASKING, "error"} if is_leg else {*FINAL}
        if not impatient.cancelled_caught and last not in ends:
            told.violated(f"a stream of {answer.headers['x-execution-id']} ended after {last!r}")

    def _marker(self) -> str:
        return UUID(int=self._rng.getrandbits(128)).hex
