"""One execution of a flow in a test: played, looked at, and rehearsed.

It is played in turns: wait until nothing happens by itself any more, then answer one call, or else
let the time leap to what is due next. All of that is told by facts (rows, entries, whether the
driver waits), never by time that passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import msgspec

from dispatch.core.drafts import bare
from dispatch.core.errors import DispatchError, ToolTimeout
from dispatch.core.events import ErrorInfo, Event
from dispatch.core.journal import Entry
from dispatch.core.lifecycle import Status
from dispatch.core.waits import Decision
from dispatch.engine.cuts import PLACES, Fault, find_fault
from dispatch.engine.dispatcher import Start
from dispatch.store.base import Execution, WaitRow
from dispatch.testing.worker import Worker, made

#: How often the time may leap before a flow counts as endless.
LEAPS = 10_000

_decode_event = msgspec.json.Decoder(Event).decode
_REMEDY = """\
What stands between the yields is run again after every restart, and has to do the same each time:
no clock, no chance, no I/O, no global state. Use run.now, run.random, run.uuid(), and steps."""


Decided = bool | Decision
#: What a test gives for an approval.
GivenDecision = Decided | Callable[[Any], Decided | Awaitable[Decided]]


class Call(NamedTuple):
    """A tool that the caller was asked for, and with what."""

    name: str
    parameters: Any


class Trial:
    """What `run` gives: what the flow did so far, and means to act on it further."""

    def __init__(
        self,
        worker: Worker,
        tools: Mapping[str, Any],
        approvals: Mapping[str, GivenDecision] | bool | None,
        patience_seconds: float,
    ):
        self._worker, self._tools, self._approvals = worker, tools, approvals
        self._patience_seconds = patience_seconds
        self._row: Execution
        self._calls: list[WaitRow] = []  # open, and told to the caller
        self._ignored: set[str] = set()  # those that nobody is to answer
        self._leaps = 0
        self._was_asked = False  # whether the test has looked at how it stands

    # --- what it did ------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """All events, in order, as clients see them."""
        return [_decode_event(entry.data) for entry in self._worker.entries]

    @property
    def text(self) -> str:
        """All text, that of steps too."""
        return "".join(_field(entry, "delta") for entry in self._of_kind("text_delta"))

    @property
    def calls(self) -> list[Call]:
        """The tools that the caller was asked for, in order."""
        calls = {entry.facts.tool_call_id: _call(entry) for entry in self._of_kind("await")}
        return list(calls.values())

    @property
    def result(self) -> Any:
        """What the flow gave, None if nothing. Fails the test if it has not completed."""
        __tracebackhide__ = True
        self._check_completed()
        results = self._of_kind("dispatch.result")
        return _field(results[-1], "value").get("value") if results else None

    # --- how it stands ----------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        self._was_asked = True
        return self._row.status

    @property
    def error(self) -> ErrorInfo | None:
        """Why it failed, or is parked."""
        self._was_asked = True
        return self._error()

    @property
    def waiting(self) -> list[str]:
        """The tools and approvals that it waits for, by name."""
        self._was_asked = True
        return [row.name for row in self._calls]

    @property
    def now(self) -> datetime:
        """What the clock shows."""
        return datetime.fromtimestamp(self._worker.clock.now(), UTC)

    # --- acting on it -----------------------------------------------------------------------------

    async def answer(self, name: str, answer: Any) -> None:
        """Give the tool or approval that it waits for what `run` would take for it, and play on."""
        __tracebackhide__ = True
        row = next((row for row in self._calls if bare(row.name) == bare(name)), None)
        if row is None:
            raise AssertionError(f"nobody waits for {name}: {self._standing()}")
        try:
            await self._settle(row, answer)
        except DispatchError as exc:
            # The engine's frames would hide the author's line.
            raise exc.with_traceback(None) from None
        await self._play()

    async def advance(self, seconds: float) -> None:
        """Let time pass, and play on with whatever falls due meanwhile."""
        __tracebackhide__ = True
        clock = self._worker.clock
        until = clock.now() + seconds
        while (due := await self._worker.store.next_due()) is not None and due <= until:
            clock.move_to(due)
            await self._play()
        clock.move_to(until)

    async def cancel(self, reason: str | None = None) -> None:
        """Cancel it, and play on to its end."""
        self._was_asked = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._worker.dispatcher.cancel, self._row.id, reason)
            await self._until(lambda: bool(self._of_kind("dispatch.cancel_requested")))
            await self._play()

    async def check_replay(self, places: int = PLACES) -> None:
        """Fail the test unless the flow, after a crash, would go on as it did: behind each entry.

        A journal with more entries than `places` is tried only where a wait is, and at both ends of
        what was shown in a row; one that has too many of these, at every so manieth.
        """
        __tracebackhide__ = True
        worker = self._worker
        fault = await find_fault(
            worker.registry, self._row, worker.entries, clock=worker.clock, places=places
        )
        if fault is not None:
            raise AssertionError(_explain(fault, self._row.flow))

    # --- the engine's side (`run` calls these) ----------------------------------------------------

    async def begin(self, start: Start) -> None:
        self._row = (await self._worker.dispatcher.dispatch(start)).execution
        await self._play()

    async def end(self, *, check: bool) -> None:
        __tracebackhide__ = True
        if check:
            await self.check_replay()
        if not self._was_asked:
            self._check_completed()

    # --- playing ----------------------------------------------------------------------------------

    async def _play(self) -> None:
        """Answer what is given, and let the time leap, as long as one of them can be done."""
        while not await self._rest():
            given = next((row for row in self._calls if self._is_given(row)), None)
            if given is not None:
                await self._settle(given, self._given(given))
            elif any(row.id not in self._ignored for row in self._calls) or not await self._leap():
                return

    async def _rest(self) -> bool:
        """Return when nothing more happens by itself; True if it is over, or parked."""
        worker = self._worker
        while True:
            change = worker.change
            self._row = await worker.store.get(self._row.id)
            over = self._row.status.is_final or self._row.status is Status.INTERRUPTED
            if over:
                break
            if not worker.is_let_go(self._row):
                await self._wait(change)
            elif worker.is_idle(self._row) and not await worker.store.due(worker.clock.now(), 1):
                break
            else:  # it is about to be
                await anyio.lowlevel.checkpoint()
        told = {_id(entry) for entry in self._of_kind("await", "approval_start")}
        waits = await worker.store.waits(self._row.id)
        self._calls = [row for row in waits if row.status == "open" and row.id in told]
        return over

    async def _leap(self) -> bool:
        """Move the clock to what is due next; False if nothing is."""
        worker = self._worker
        due = [at for at in (await worker.store.next_due(), worker.retry_at) if at is not None]
        if not due:
            return False
        self._leaps += 1
        if self._leaps > LEAPS:
            raise AssertionError(f"{self._row.flow} goes on for ever: time has leapt {LEAPS} times")
        worker.clock.move_to(min(due))
        return True

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while True:
            change = self._worker.change
            if is_so():
                return
            await self._wait(change)

    async def _wait(self, change: anyio.Event) -> None:
        with anyio.move_on_after(self._patience_seconds) as scope:
            await change.wait()
        if scope.cancelled_caught:
            steps = ", ".join(self._worker.at_work)
            raise AssertionError(
                f"{self._row.flow} has done nothing for {self._patience_seconds:g} s, "
                + (f"it works on the step {steps}" if steps else "its body awaits something")
                + ": give steps= a stand-in, or more patience_seconds="
            )

    # --- the caller -------------------------------------------------------------------------------

    def _is_given(self, row: WaitRow) -> bool:
        if row.id in self._ignored:
            return False
        if row.kind == "approval" and isinstance(self._approvals, bool):
            return True
        return _key(row, self._scripted(row)) is not None

    def _given(self, row: WaitRow) -> Any:
        if row.kind == "approval" and isinstance(self._approvals, bool):
            return self._approvals
        scripted = self._scripted(row)
        return scripted[_key(row, scripted) or ""]

    def _scripted(self, row: WaitRow) -> Mapping[str, Any]:
        if row.kind == "tool":
            return self._tools
        return self._approvals if isinstance(self._approvals, Mapping) else {}

    async def _settle(self, row: WaitRow, given: Any) -> None:
        dispatcher = self._worker.dispatcher
        parameters = _call(self._told(row)).parameters
        if row.kind == "approval":
            decision = _decision(await made(given, parameters), row.name)
            if decision.outcome == "timeout":
                self._ignored.add(row.id)
            else:
                await dispatcher.approve(self._row.id, row.id, decision.outcome, decision.reason)
            return
        try:
            output = await made(given, parameters)
        except AssertionError:
            raise  # the test's own
        except ToolTimeout:
            self._ignored.add(row.id)
            return
        except Exception as exc:  # whatever a caller's tool raises, its caller posts
            words = {"type": "text", "text": f"{type(exc).__name__}: {exc}"}
            output = {"isError": True, "content": [words]}
        await dispatcher.resume(self._row.id, {row.id: output}, None)

    def _told(self, row: WaitRow) -> Entry:
        """The entry by which the caller was told of it."""
        told = self._of_kind("await", "approval_start")
        return next(entry for entry in reversed(told) if _id(entry) == row.id)

    # --- words ------------------------------------------------------------------------------------

    def _of_kind(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self._worker.entries if entry.kind in kinds]

    def _error(self) -> ErrorInfo | None:
        if self._row.status not in (Status.FAILED, Status.INTERRUPTED):
            return None
        return msgspec.convert(_field(self._worker.entries[-1], "error"), ErrorInfo)

    def _check_completed(self) -> None:
        __tracebackhide__ = True
        if self._row.status is not Status.COMPLETED:
            raise AssertionError(self._standing())

    def _standing(self) -> str:
        """How it stands, in a sentence."""
        flow, error = self._row.flow, self._error()
        if error is not None:
            word = "failed" if self._row.status is Status.FAILED else "would be parked"
            return f"{flow} {word}: {error.code}: {error.message}"
        if self._row.status.is_final:
            return f"{flow} is {self._row.status}"
        if not self._calls:
            return f"{flow} waits for nothing that could happen"
        row = self._calls[0]
        word = "tool" if row.kind == "tool" else "approval"
        asked = msgspec.json.encode(_call(self._told(row)).parameters).decode()
        if row.id in self._ignored:
            return f"{flow} waits for ever for the {word} {row.name} {asked}: it has no timeout="
        known = ", ".join(self._scripted(row)) or "none"
        return (
            f"{flow} waits for the {word} {row.name} {asked}, and the test gives no answer: write "
            f'{word}s={{"{row.name}": …}}, or await r.answer("{row.name}", …) (given: {known})'
        )


def _key(row: WaitRow, scripted: Mapping[str, Any]) -> str | None:
    return next((key for key in (row.name, bare(row.name)) if key in scripted), None)


def _id(entry: Entry) -> str:
    return entry.facts.tool_call_id or entry.facts.approval_id


def _call(entry: Entry) -> Call:
    return Call(entry.facts.tool_name, msgspec.json.decode(bytes(entry.facts.parameters) or b"{}"))


def _field(entry: Entry, name: str) -> Any:
    return msgspec.json.decode(entry.data)[name]


def _decision(answer: Any, name: str) -> Decision:
    if isinstance(answer, bool):
        return Decision("approved" if answer else "denied")
    if not isinstance(answer, Decision):
        raise TypeError(f"approval {name} is answered by True, False or a Decision, not {answer!r}")
    return answer


def _explain(fault: Fault, flow: str) -> str:
    behind = f"entry {fault.behind.seq} ({fault.behind.kind})"
    lines = [f"{flow} would not survive a crash behind {behind}: {fault.message}", ""]
    if fault.recorded:
        lines += [
            f"  recorded:  {fault.recorded}",
            f"  now:       {fault.now}",
            f"  at:        {fault.where}",
            "",
        ]
    return "\n".join([*lines, _REMEDY])
