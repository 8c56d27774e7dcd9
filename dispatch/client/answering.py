"""Carry an execution from leg to leg: which calls are to be run, what is sent, what it came to.

No I/O: the clients follow the legs, call the tools and ask for the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from dispatch.client.commands import Commands, TailT
from dispatch.client.tail import Received
from dispatch.core import events
from dispatch.core.errors import Conflict, Gone

#: Gets a call's parameters, gives its output; what it raises is told to the flow as the failure.
Tool = Callable[[Any], Any]
Call = events.Await | events.ApprovalStart


class Decision(NamedTuple):
    """An answer to an approval; `remember` makes it hold for later ones of that name."""

    is_approved: bool
    reason: str | None = None
    remember: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution came to: over, or where it needs somebody else.

    `waiting`: it asks for what neither the tools nor `on_approval` answered (`open`); `parked`: it
    is to be mended and retried (`error`, `code`). `text` is all that was told on the way, `result`
    the value of the flow's last `result(…)`.
    """

    execution_id: str
    seq: int
    status: Literal["completed", "failed", "cancelled", "waiting", "parked"]
    text: str
    result: Any = None
    error: str | None = None
    code: str | None = None
    open: tuple[Call, ...] = ()


class Answering:
    """One execution, as far as it was told. Each call is run once, whatever connections do."""

    def __init__(self, tools: Mapping[str, Tool], *, decides: bool):
        self._tools, self._decides = tools, decides
        self._execution_id, self._seq = "", 0
        self._last: events.Event | None = None
        self._text: list[str] = []
        self._result: Any = None
        self._open: dict[str, Call] = {}
        self._outputs: dict[str, Any] = {}
        self._decisions: dict[str, Decision | None] = {}
        self._refusal: Conflict | Gone | None = None

    def take(self, execution_id: str, received: Received) -> None:
        """The next event."""
        self._execution_id, self._seq, self._last = execution_id, received.seq, received.event
        self._refusal = None
        match received.event:
            case events.TextDelta(delta=delta):
                self._text.append(delta)
            case events.Custom(name="dispatch.result", value=value):
                self._result = value["value"]
            case events.Await(tool_call_id=str(id), tool_name=str()) as call:
                self._open[id] = call
            case events.ApprovalStart(approval_id=id) as call:
                self._open[id] = call
            case events.ToolComplete(tool_call_id=id) | events.ApprovalComplete(approval_id=id):
                self._open.pop(id, None)
            case events.ExecutionComplete() | events.ExecutionError():
                self._open.clear()
            case _:
                pass

    def refused(self, refusal: Conflict | Gone) -> None:
        """Somebody else was faster, or it timed out: what became of it is told next, or it is
        raised.
        """
        if not self._execution_id or self._refusal is not None:
            raise refusal
        self._refusal = refusal

    # --- what is to be answered -------------------------------------------------------------------

    def calls(self) -> dict[str, tuple[Tool, Any]]:
        """Those that can be run here and were not yet: by id, each with its parameters."""
        found = {}
        for id, call in self._open.items():
            if isinstance(call, events.Await) and id not in self._outputs:
                name = _name(str(call.tool_name), self._tools)
                if name in self._tools:
                    found[id] = (self._tools[name], call.parameters)
        return found

    def succeeded(self, id: str, output: Any) -> None:
        self._outputs[id] = output

    def failed(self, id: str, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self._outputs[id] = {"isError": True, "content": [{"type": "text", "text": text}]}

    def approvals(self) -> list[events.ApprovalStart]:
        """Those that nobody was asked about yet."""
        if not self._decides:
            return []
        return [
            call
            for id, call in self._open.items()
            if isinstance(call, events.ApprovalStart) and id not in self._decisions
        ]

    def decided(self, id: str, decision: Decision | bool | None) -> None:
        self._decisions[id] = Decision(decision) if isinstance(decision, bool) else decision

    def next_leg(self, client: Commands[TailT, Any]) -> TailT | None:
        """What is sent next; None if it is over, or somebody else's turn."""
        id, after = self._execution_id, self._seq
        if self._refusal is not None:
            return client.events(id, after=after, through=False)
        outputs = {one: self._outputs[one] for one in self._open if one in self._outputs}
        if outputs:
            return client.resume(id, outputs, after=after)
        for one in self._open:
            decision = self._decisions.get(one)
            if decision is not None:
                return client.approve(id, one, after=after, **decision._asdict())
        return None

    # --- what it came to --------------------------------------------------------------------------

    def ended(self) -> None:
        """A leg has. Raises the refusal behind which nothing was told."""
        if self._refusal is not None:
            raise self._refusal

    def outcome(self) -> Outcome:
        status, error, code = _came_to(self._last)
        return Outcome(
            execution_id=self._execution_id,
            seq=self._seq,
            status=status,
            text="".join(self._text),
            result=self._result,
            error=error,
            code=code,
            open=tuple(self._open.values()),
        )


def _name(asked: str, tools: Container[str]) -> str:
    """A page's tool may be given without its prefix."""
    return asked if asked in tools else asked.removeprefix("webmcp:")


_Status = Literal["completed", "failed", "cancelled", "waiting", "parked"]


def _came_to(last: events.Event | None) -> tuple[_Status, str | None, str | None]:
    match last:
        case events.ExecutionComplete(success=True):
            return "completed", None, None
        case events.ExecutionComplete(stop_reason="cancelled"):
            return "cancelled", None, None
        case events.ExecutionComplete():
            return "failed", None, None
        case events.ExecutionError(error=error, code=code):
            return "failed", *_told(error, code)
        case events.Error(recoverable=False, error=error, code=code):
            return "parked", *_told(error, code)
        case _:
            return "waiting", None, None


def _told(error: str | events.ErrorInfo, code: str | None) -> tuple[str, str | None]:
    return (error, code) if isinstance(error, str) else (error.message, code or error.code)
