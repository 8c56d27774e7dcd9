"""An execution as a file: a line that says what it is, then one for each entry of its journal.

Pure: text in, entries out. Private parts are in it only if they are asked for. Without them a line
names what it withholds (`withheld`), and keeps of a private part what says nothing about anybody:
the seed that ids derive from, time limits, types. So an execution that had nothing private can be
replayed from any export, and of the others it is known how far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from dispatch.core.errors import InvalidRequest
from dispatch.core.events import TYPES, Kind
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import (
    INTERNAL,
    JOURNAL,
    PAYLOADS,
    CallPrivate,
    ContinuedPrivate,
    Draft,
    Edge,
    Entry,
    Origin,
    ResultPrivate,
    ResumePrivate,
    StartPrivate,
    entry,
)
from dispatch.core.projection import effects

#: Of the files written here. What only adds fields that may be ignored is no new format.
FORMAT = 1

_ORIGINS = {origin.name.lower(): origin for origin in Origin}
_WORDS = {origin: word for word, origin in _ORIGINS.items()}
_PAYLOADS: Mapping[str, Any] = {kind: payload for payload, kind in PAYLOADS.items()}
_PRIVATE: Mapping[str, Any] = {
    "StartPrivate": StartPrivate,
    "ResumePrivate": ResumePrivate,
    "CallPrivate": CallPrivate,
    "ContinuedPrivate": ContinuedPrivate,
    "result": ResultPrivate,
}
#: Fields of private parts that are no secret. Whatever is not named here is withheld.
_OPEN = frozenset(
    {"seed", "timeout", "returns", "raw", "private"}
    | {"kind", "flow", "counts", "startedAt", "version"}
)
#: Fields that hold nothing if they hold this.
_EMPTY = {"inputs": b"{}", "messages": b"[]"}
#: Fields that say which event it is.
_FRAMED = ("type", "executionId", "seq")


class Exported(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The execution, as it was when it was exported."""

    id: ExecutionId
    flow: str
    version: int
    kind: Kind
    status: str = ""
    code: str | None = None


class _Header(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    dispatch_export: int
    dispatch_version: str
    private: bool
    last_seq: int
    execution: Exported


class _Format(msgspec.Struct, frozen=True, rename="camel"):
    dispatch_export: int


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    seq: int
    at: float
    origin: str
    event: msgspec.Raw
    private: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    withheld: list[str] = []


class Export(NamedTuple):
    """What a file holds. `withheld`: of which entries it lacks what."""

    execution: Exported
    entries: Sequence[Entry]
    withheld: Mapping[int, Sequence[str]]


class Exporter:
    """Makes the lines of one execution, each with its newline. Entries are given in order."""

    def __init__(self, execution: Exported, *, private: bool):
        self._execution, self._is_private = execution, private
        self._hidden_calls: dict[str, msgspec.Raw] = {}

    def header(self, *, last_seq: int, dispatch_version: str) -> bytes:
        header = _Header(
            dispatch_export=FORMAT,
            dispatch_version=dispatch_version,
            private=self._is_private,
            last_seq=last_seq,
            execution=self._execution,
        )
        return msgspec.json.encode(header) + b"\n"

    def line(self, past: Entry) -> bytes:
        fields = _fields(past.data)
        private: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        withheld: list[str] = []
        if past.private is not None:
            private = msgspec.Raw(past.private)
            if not self._is_private:
                private, withheld = _redact(past.private)
        if not self._is_private:
            self._hide_parameters(past, fields)
        placed = drafted(past)
        event = {"type": placed.type, "executionId": self._execution.id, "seq": past.seq, **fields}
        made = _Line(
            seq=past.seq,
            at=past.at,
            origin=_WORDS[past.origin],
            event=msgspec.Raw(msgspec.json.encode(event)),
            private=private,
            withheld=withheld,
        )
        return msgspec.json.encode(made) + b"\n"

    def _hide_parameters(self, past: Entry, fields: dict[str, msgspec.Raw]) -> None:
        """An `await` shows its caller the parameters of a private call (design.md 4); here they are
        what its `tool_start` shows.
        """
        call = past.facts.tool_call_id
        if past.kind == "tool_start" and "parameters" in fields:
            hidden = past.hidden(CallPrivate)
            if hidden is not None and hidden.private:
                self._hidden_calls[call] = fields["parameters"]
        elif past.kind == "await" and call in self._hidden_calls:
            fields["parameters"] = self._hidden_calls[call]


def decode(lines: Iterable[bytes]) -> Export:
    """Read what `Exporter` made.

    Raises `InvalidRequest`: `export-newer` for a format of later versions, `export-invalid`, with
    the number of the line, for anything that is no whole journal.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    header = _read_header(next(numbered, (1, b"")))
    entries: list[Entry] = []
    withheld: dict[int, Sequence[str]] = {}
    for number, line in numbered:
        past, names = _read_line(line, number, header.execution.id)
        if past.seq != len(entries) + 1:
            raise _invalid(number, f"entry {len(entries) + 1} was expected, and this is {past.seq}")
        if entries and entries[-1].edge is Edge.FINAL:
            raise _invalid(number, "there is an entry behind the final event")
        if names:
            withheld[past.seq] = names
        entries.append(past)
    if len(entries) != header.last_seq or not entries:
        raise InvalidRequest(
            f"the export has {len(entries)} entries, and its first line says {header.last_seq}: "
            "it was cut off",
            code="export-invalid",
        )
    if (entries[0].kind, entries[0].origin) != ("execution_start", Origin.WORLD):
        raise _invalid(2, "a journal begins with the world's execution_start")
    return Export(header.execution, entries, withheld)


def drafted(past: Entry) -> Draft:
    """`past` as it was appended."""
    return Draft(past.kind, past.origin, _rest(_fields(past.data)), past.private)


# --- lines ----------------------------------------------------------------------------------------


def _read_header(first: tuple[int, bytes]) -> _Header:
    number, line = first
    try:
        its_format = msgspec.json.decode(line, type=_Format).dispatch_export
    except msgspec.DecodeError as exc:
        raise _invalid(number, f"this is no export of an execution: {exc}") from exc
    if its_format > FORMAT:
        raise InvalidRequest(
            f"the export has format {its_format}, and this version reads up to {FORMAT}: "
            "a newer dispatch made it",
            code="export-newer",
        )
    try:
        return msgspec.json.decode(line, type=_Header)
    except msgspec.DecodeError as exc:
        raise _invalid(number, str(exc)) from exc


def _read_line(line: bytes, number: int, execution_id: ExecutionId) -> tuple[Entry, list[str]]:
    try:
        # Compact, as it is in a journal, whoever has formatted it since.
        found = msgspec.json.decode(msgspec.json.format(line, indent=-1), type=_Line)
        framed = msgspec.json.decode(found.event, type=_Framed)
        fields = _fields(bytes(found.event))
    except msgspec.DecodeError as exc:
        raise _invalid(number, str(exc)) from exc
    if (framed.execution_id, framed.seq) != (execution_id, found.seq):
        raise _invalid(number, f"the event is not entry {found.seq} of {execution_id}")
    is_internal = framed.type == "custom" and str(framed.name).startswith(INTERNAL)
    kind = framed.name if is_internal else framed.type
    origin = _ORIGINS.get(found.origin)
    if origin is None or (kind, origin) not in JOURNAL:
        raise _invalid(number, f"no journal has {kind!r} of origin {found.origin!r}")
    private = None if found.private is msgspec.UNSET else bytes(found.private)
    past = entry(Draft(kind, origin, _rest(fields), private), found.seq, found.at)
    try:
        _check(past, is_whole=not found.withheld)
    except (msgspec.DecodeError, ValueError) as exc:
        raise _invalid(number, f"{kind}: {exc}") from exc
    return past, found.withheld


class _Framed(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    execution_id: str
    seq: int
    name: Any = ""


def _check(past: Entry, *, is_whole: bool) -> None:
    """Raise `DecodeError` or `ValueError` unless all that is read of `past` later can be read."""
    if past.kind in TYPES:
        msgspec.json.decode(past.data, type=TYPES[past.kind])
    elif past.kind in _PAYLOADS:
        past.payload(_PAYLOADS[past.kind])
    if not is_whole:
        return
    private = _PRIVATE.get(JOURNAL[past.kind, past.origin].private)
    if private is not None:
        past.hidden(private)
    if past.private is None and private in (StartPrivate, ContinuedPrivate):
        raise msgspec.ValidationError("its private part is missing")
    effects(past)


def _invalid(number: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"line {number} of the export: {why}", code="export-invalid")


# --- events and private parts ---------------------------------------------------------------------


def _fields(data: bytes) -> dict[str, msgspec.Raw]:
    """The fields of an event as they are written, without those that every event has."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    return {name: value for name, value in fields.items() if name not in _FRAMED}


def _rest(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """The fields as a `Draft` holds them: behind the event's type."""
    return b"," + msgspec.json.encode(fields)[1:] if fields else b"}"


def _redact(private: bytes) -> tuple[msgspec.Raw, list[str]]:
    """A private part without what is private, and the names of what that was."""
    kept: dict[str, msgspec.Raw] = {}
    withheld: list[str] = []
    for name, value in msgspec.json.decode(private, type=dict[str, msgspec.Raw]).items():
        if name == "start":
            kept[name], inner = _redact(bytes(value))
            withheld += inner
        elif name in _OPEN or bytes(value) == _EMPTY.get(name):
            kept[name] = value
        else:
            withheld.append(name)
    return msgspec.Raw(msgspec.json.encode(kept)), withheld
