"""The journal: what an entry is, and the one table of everything that can be appended.

An entry is an event with an origin and perhaps a private part. *Flow* entries are what the
generator yielded, and are compared on replay; *world* entries are what happened to it, and answer
it; *engine* entries are for readers, and replay ignores all but the legs they begin and end
(design.md 2).

`JOURNAL` is that table. A `Draft` is an entry that has no place yet; committing it gives it its
`seq`. What has no type among the 33 is a `custom` event on the wire, named `dispatch.<word>`: its
payload is one of the Structs here.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import msgspec

from dispatch.core import canonical
from dispatch.core.errors import FlowMistake
from dispatch.core.events import Custom, EventBase, Kind, ToolOrigin

MAX_ENTRY_BYTES = 8 * 1024 * 1024
INTERNAL = "dispatch."

P = TypeVar("P", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)


class Origin(StrEnum):
    FLOW = "f"
    WORLD = "w"
    ENGINE = "e"


class Edge(StrEnum):
    """What an entry is to the leg it stands in (design.md 6)."""

    NONE = ""
    HEAD = "h"
    TURN = "t"  # the caller's turn: an await or an approval; the last of a run of them ends the leg
    PARKED = "p"
    FINAL = "x"


# --- payloads of entries that have no type of their own among the 33 ------------------------------


class Payload(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Becomes `custom` events named `dispatch.<kind>`; `KIND` is set by each subclass."""


class TimerSet(Payload, frozen=True):
    id: str
    due_at: str


class TimerFired(Payload, frozen=True):
    id: str


class ApprovalOpened(Payload, frozen=True):
    approval_id: str
    tool_name: str
    parameters: Any = None
    reason: str | None = None
    timeout: float | None = None


class AttemptStarted(Payload, frozen=True):
    step_id: str
    attempt: int


class Abandoned(Payload, frozen=True):
    """Settles a timer that lost its race; other waits have a type of event that can say it."""

    id: str


class CancelRequested(Payload, frozen=True):
    """With a `code` it is no person's wish but a limit that was reached: the execution fails."""

    deadline: str
    reason: str | None = None
    code: str | None = None


class CancelRaised(Payload, frozen=True):
    """The place of `Cancelled`: that many waits so far, that many displays since (rule 5)."""

    waits: int
    displays: int
    waiting: bool


class PhaseEntered(Payload, frozen=True):
    name: str


class ResultSet(Payload, frozen=True):
    value: Any = None


class Continued(Payload, frozen=True):
    segment: int


PAYLOADS: dict[type[Payload], str] = {
    TimerSet: "dispatch.timer_set",
    TimerFired: "dispatch.timer_fired",
    ApprovalOpened: "dispatch.approval_opened",
    AttemptStarted: "dispatch.step_attempt",
    Abandoned: "dispatch.abandoned",
    CancelRequested: "dispatch.cancel_requested",
    CancelRaised: "dispatch.cancel_raised",
    PhaseEntered: "dispatch.phase",
    ResultSet: "dispatch.result",
    Continued: "dispatch.continued",
}


# --- private parts --------------------------------------------------------------------------------


class ClientTool(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A tool that the caller declared it can run (wire/dispatch-api.md 2.1)."""

    name: str
    description: str | None = None
    parameters_schema: Any = None
    origin: ToolOrigin | None = None
    page_origin: str | None = None


class StartPrivate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Private part of the first entry: all that the flow was started with."""

    seed: str
    inputs: msgspec.Raw = msgspec.Raw(b"{}")
    messages: list[Any] = []
    client_tools: list[ClientTool] = []
    context: Any = None
    record: Any = None
    metadata: Any = None
    conversation_id: str | None = None
    tool_outputs: dict[str, msgspec.Raw] = {}
    timeout: float | None = None  # of the execution, in seconds
    step_timeout: float | None = None  # of steps that have none of their own
    session: str | None = None  # digest of the page's session that it belongs to


class ResumePrivate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Private part of a later leg's head: what the resume replaces."""

    messages: list[Any] | None = None


class CallPrivate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Private part of `tool_start`: what the caller's clients have no use for, or must not see.

    `parameters` are here if they are private, else in the event.
    """

    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout: float | None = None
    returns: Any = None  # JSON Schema that an output must fit
    raw: bool = False
    private: bool = False


class ResultPrivate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Private part of a settlement whose result was marked `private=`."""

    result: msgspec.Raw


class Counts(msgspec.Struct, frozen=True):
    """Steps begun, and how they ended: what the final event sums up."""

    total: int = 0
    ok: int = 0
    failed: int = 0


class ContinuedPrivate(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """Private part of `continue_as`: all that the next segment is replayed from."""

    state: msgspec.Raw
    start: StartPrivate
    kind: Kind
    flow: str
    counts: Counts
    started_at: float
    version: int = 0
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    decisions: dict[str, str] = {}


# --- the table ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """How one kind of entry behaves. `firm`: appended only if nothing unseen has arrived in
    between.
    """

    by: str
    firm: bool
    edge: Edge
    private: str
    replay: str


def _table() -> dict[tuple[str, Origin], Row]:
    flow, world, engine = Origin.FLOW, Origin.WORLD, Origin.ENGINE
    table: dict[tuple[str, Origin], Row] = {
        # kind, origin: by, firm, edge, private part, effect on replay
        ("execution_start", world): Row("dispatch", True, Edge.HEAD, "StartPrivate", "header"),
        ("execution_start", engine): Row(
            "resume, driver", True, Edge.HEAD, "ResumePrivate", "messages"
        ),
        ("tool_start", flow): Row("driver", True, Edge.NONE, "CallPrivate", "wait, compared"),
        ("await", engine): Row("driver", True, Edge.TURN, "parameters", "none"),
        ("tool_complete", world): Row(
            "resume, timer, driver", True, Edge.NONE, "result", "settles"
        ),
        ("dispatch.approval_opened", flow): Row("driver", True, Edge.NONE, "", "wait, compared"),
        ("approval_start", engine): Row("driver", True, Edge.TURN, "", "none"),
        ("approval_complete", world): Row("approve, timer, driver", True, Edge.NONE, "", "settles"),
        ("step_start", flow): Row("driver", True, Edge.NONE, "", "wait, compared"),
        ("dispatch.step_attempt", world): Row("driver", True, Edge.NONE, "", "counts attempts"),
        ("error", world): Row("driver", True, Edge.NONE, "", "counts failed attempts"),
        ("step_complete", world): Row("driver", True, Edge.NONE, "result", "settles"),
        ("dispatch.timer_set", flow): Row("driver", True, Edge.NONE, "", "wait, compared"),
        ("dispatch.timer_fired", world): Row("timer", True, Edge.NONE, "", "settles"),
        ("dispatch.abandoned", world): Row("driver", True, Edge.NONE, "", "settles"),
        ("dispatch.cancel_requested", world): Row("cancel", True, Edge.NONE, "", "cancel is due"),
        ("dispatch.cancel_raised", flow): Row("driver", True, Edge.NONE, "", "place of Cancelled"),
        ("dispatch.continued", flow): Row(
            "driver", True, Edge.NONE, "ContinuedPrivate", "new segment"
        ),
        ("dispatch.phase", flow): Row("driver", False, Edge.NONE, "", "display, counted"),
        ("dispatch.result", flow): Row("driver", False, Edge.NONE, "", "display, counted; result"),
        ("execution_complete", flow): Row("driver", True, Edge.FINAL, "", "end, compared"),
        ("execution_error", flow): Row("driver", True, Edge.FINAL, "", "end, compared"),
        # An end that the flow did not come to by itself: cancel's time limit, or no way to replay
        # it.
        ("execution_complete", world): Row("cancel", True, Edge.FINAL, "", "end"),
        ("execution_error", world): Row("engine", True, Edge.FINAL, "", "end"),
        ("error", engine): Row("parking", True, Edge.PARKED, "", "none"),
    }
    displays = [
        "text_delta",
        "reasoning_start",
        "reasoning_delta",
        "reasoning_complete",
        "media_start",
        "media_delta",
        "media_complete",
        "artifact_start",
        "artifact_delta",
        "artifact_update",
        "artifact_complete",
        "source",
        "custom",
        "turn_start",
        "turn_complete",
        "step_skip",
        "tool_input_delta",
        "tool_input_complete",
        "tool_output_delta",
    ]
    for kind in displays:
        table[kind, flow] = Row("driver", False, Edge.NONE, "", "display, counted")
        table[kind, world] = Row("step", False, Edge.NONE, "", "none")
    for kind in ("text_start", "text_complete"):
        # Block edges: made by the engine, never counted.
        table[kind, engine] = Row("driver", False, Edge.NONE, "", "none")
    # Written by later work on control; their rows are here so that the table stays the whole truth.
    for kind, origin, replay in (
        ("dispatch.message_injected", world, "answers receive and inbox"),
        ("dispatch.receive_opened", flow, "wait, compared"),
        ("dispatch.inbox_read", flow, "place of inbox()"),
        ("dispatch.call_started", flow, "wait, compared"),
        ("dispatch.call_complete", world, "settles"),
        ("dispatch.checkpoint", flow, "display, counted"),
        ("dispatch.pause_requested", world, "none"),
        ("dispatch.paused", engine, "none"),
        ("dispatch.pause_ended", world, "none"),
    ):
        table[kind, origin] = Row("control", True, Edge.NONE, "", replay)
    return table


JOURNAL: dict[tuple[str, Origin], Row] = _table()

DISPLAYS = frozenset(
    kind
    for (kind, origin), row in JOURNAL.items()
    if origin is Origin.FLOW and row.replay.startswith("display")
)
EDGES = {key: row.edge for key, row in JOURNAL.items() if row.edge}


# --- drafts and entries ---------------------------------------------------------------------------


class Draft(msgspec.Struct, frozen=True):
    """An entry without a place. `rest` is the event's JSON behind its `"type":"…"`.

    That is where the frame puts `executionId` and `seq`, so an event is encoded once, before its
    place is known, and what cannot be encoded fails here, alone, before it reaches a batch.
    """

    kind: str
    origin: Origin
    rest: bytes
    private: bytes | None = None

    @property
    def type(self) -> str:
        return "custom" if self.kind.startswith(INTERNAL) else self.kind

    @property
    def edge(self) -> Edge:
        return EDGES.get((self.kind, self.origin), Edge.NONE)


_encode = msgspec.json.Encoder().encode
_TAG_LENGTH = len('{"type":""')


def draft(
    event: EventBase | Payload, origin: Origin, private: msgspec.Struct | None = None
) -> Draft:
    """Encode `event` for the journal. Raises `FlowMistake` if it can't be, or is over
    `MAX_ENTRY_BYTES`.
    """
    if isinstance(event, Payload):
        kind = PAYLOADS[type(event)]
        event = Custom(name=kind, value=event)
    else:
        kind = event.type_name()
    if (kind, origin) not in JOURNAL:
        raise ValueError(f"the table has no row for {kind} of origin {origin.name}")
    body = canonical.encode(event)
    hidden = None if private is None else _encode(private)
    if len(body) + len(hidden or b"") > MAX_ENTRY_BYTES:
        raise FlowMistake(
            f"{kind} has {len(body)} bytes; {MAX_ENTRY_BYTES} is the limit", code="entry-too-large"
        )
    return Draft(kind, origin, body[_TAG_LENGTH + len(event.type_name()) :], hidden)


def display(event: EventBase, origin: Origin) -> Draft:
    """`draft` of what an author's code yields to be seen, in a flow or in a step.

    Raises `FlowMistake` for types and names that only the engine writes, too.
    """
    kind = event.type_name()
    name = event.name if isinstance(event, Custom) else ""
    if kind not in DISPLAYS or name.startswith(INTERNAL):
        raise FlowMistake(
            f"{name or kind} cannot be yielded: it is written by the engine", code="not-yours"
        )
    return draft(event, origin)


def text_delta(block_id: str, text: str, origin: Origin) -> Draft:
    """`draft` of a text delta without its detours: the one entry that is made a hundred thousand
    times.
    """
    try:
        delta = _encode(text)
    except UnicodeEncodeError as exc:
        raise FlowMistake(
            f"text with a lone surrogate cannot be sent: {exc}", code="not-json"
        ) from exc
    if len(delta) > MAX_ENTRY_BYTES:
        raise FlowMistake(
            f"text of {len(delta)} bytes; {MAX_ENTRY_BYTES} is the limit", code="entry-too-large"
        )
    return Draft("text_delta", origin, b',"id":"%b","delta":%b}' % (block_id.encode(), delta))


class Facts(msgspec.Struct, frozen=True, rename="camel"):
    """What replay and projections read of an entry, whatever its type. Absent JSON is an empty
    `Raw`.
    """

    id: str = ""
    name: str = ""
    step_id: str = ""
    tool_call_id: str = ""
    tool_name: str = ""
    approval_id: str = ""
    parameters: msgspec.Raw = msgspec.Raw()
    success: bool = True
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    error_type: str = "Exception"
    code: str = ""
    decision: str = ""
    remember: bool | None = None
    reason: str | None = None
    recoverable: bool = True
    attempt: int = 0
    retry_at: str = ""
    stop_reason: str = ""
    value: msgspec.Raw = msgspec.Raw()


_facts = msgspec.json.Decoder(Facts)


class Entry(msgspec.Struct, frozen=True, dict=True):
    """A committed entry. `data` is its event's JSON; `at` is when it was committed, in Unix
    seconds.
    """

    seq: int
    kind: str
    origin: Origin
    at: float
    data: bytes
    private: bytes | None = None

    @cached_property
    def facts(self) -> Facts:
        return _facts.decode(self.data)

    def payload(self, cls: type[P]) -> P:
        return msgspec.json.decode(self.facts.value, type=cls)

    def hidden(self, cls: type[S]) -> S | None:
        return None if self.private is None else msgspec.json.decode(self.private, type=cls)

    @property
    def edge(self) -> Edge:
        return EDGES.get((self.kind, self.origin), Edge.NONE)


def entry(placed: Draft, seq: int, at: float) -> Entry:
    """`placed` as it is read back from the journal."""
    data = b'{"type":"%b"%b' % (placed.type.encode(), placed.rest)
    return Entry(seq, placed.kind, placed.origin, at, data, placed.private)
