"""Of each type of event the least and the most that it can hold."""

from typing import Any

import msgspec

from dispatch.core.events import TYPES, ArtifactFile, EventBase, Tokens
from dispatch.core.journal import JOURNAL, Origin

AT = "2026-01-02T03:04:05.678Z"

VALUES: dict[str, Any] = {
    "kind": "agent",
    "started_at": AT,
    "completed_at": AT,
    "skipped_at": AT,
    "awaited_at": AT,
    "retry_at": AT,
    "timestamp": AT,
    "role": "assistant",
    "stop_reason": "end_turn",
    "error": "boom",
    "success": True,
    "remember": True,
    "resumed": True,
    "recoverable": True,
    "tokens": Tokens(input=1, output=2),
    "total_tokens": Tokens(input=1, output=2),
    "cost": 0.5,
    "total_cost": 0.5,
    "timeout": 5.0,
    "execution_time": 1.5,
    "scope": "turn",
    "artifact_type": "component",
    "file": ArtifactFile(path="a.py", mime_type="text/x-python", language="python"),
    "props": {"a": 1},
    "parameters": {"city": "Oslo"},
    "config": {"a": 1},
    "origin": "webmcp",
    "hidden_parameter_names": ["a"],
    "decision": "approved",
    "resolved_by": "user",
    "elicitation": {
        "mode": "form",
        "message": "m",
        "requestId": "r",
        "requestedSchema": {"type": "object"},
    },
    "fallback": {"used": False, "exhausted": False, "attempts": []},
    "unresolved_variables": ["a"],
    "content": "text",
}
NUMBERS = {
    "flow_version",
    "total_steps",
    "max_turns",
    "duration_ms",
    "successful_steps",
    "failed_steps",
    "iterations",
    "iteration",
    "turn_index",
    "index",
    "attempt",
}


def _value(name: str) -> Any:
    return VALUES.get(name, 3 if name in NUMBERS else f"a {name}")


def _least_and_most(kind: type[EventBase]) -> tuple[EventBase, EventBase]:
    described = msgspec.structs.fields(kind)
    least = {field.name: _value(field.name) for field in described if field.required}
    most = {field.name: _value(field.name) for field in described}
    return kind(**least), kind(**most)


SAMPLES: dict[str, tuple[EventBase, EventBase]] = {
    name: _least_and_most(kind) for name, kind in TYPES.items()
}


def origin_of(kind: str) -> Origin:
    """One of the origins that the table has a row for."""
    return next(origin for (name, origin) in JOURNAL if name == kind)
