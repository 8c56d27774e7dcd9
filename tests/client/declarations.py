"""The events as TypeScript: `python -m tests.client.declarations` writes events.d.ts anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect

import dispatch
from dispatch.core.events import TYPES, EventBase

EVENTS = Path(dispatch.__file__).parent / "console" / "events.d.ts"
_PLAIN: dict[type[inspect.Type], str] = {
    inspect.AnyType: "unknown",
    inspect.BoolType: "boolean",
    inspect.FloatType: "number",
    inspect.IntType: "number",
    inspect.NoneType: "null",
    inspect.StrType: "string",
}


def declared() -> str:
    """All of the file."""
    return (
        "\n".join(
            [
                "// The events as on the wire; made of dispatch/core/events.py.",
                "",
                "export interface EventBase {",
                "  executionId: string;",
                "  /** Its place in the execution: 1, 2, 3 …, without a gap. */",
                "  seq: number;",
                "}",
                *(line for event in TYPES.values() for line in _interface(event)),
                "",
                "export type Event =",
                *(f"  | {event.__name__}" for event in TYPES.values()),
                "",
            ]
        ).removesuffix("\n")
        + ";\n"
    )


def _interface(event: type[EventBase]) -> Iterator[str]:
    yield ""
    yield f"export interface {event.__name__} extends EventBase {{"
    yield f'  type: "{event.type_name()}";'
    yield from _fields(event, "  ")
    yield "}"


def _fields(struct: type[msgspec.Struct], indent: str) -> Iterator[str]:
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        mark = "" if field.required else "?"
        yield f"{indent}{field.encode_name}{mark}: {_type(field.type, indent)};"


def _type(kind: inspect.Type, indent: str) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            return " | ".join(f'"{value}"' for value in values)
        case inspect.UnionType(types=types):
            # None is a field that is left out.
            kept = [one for one in types if not isinstance(one, inspect.NoneType)]
            return " | ".join(_type(one, indent) for one in kept)
        case inspect.ListType(item_type=item):
            return f"{_type(item, indent)}[]"
        case inspect.DictType(value_type=value):
            return f"Record<string, {_type(value, indent)}>"
        case inspect.StructType(cls=struct):
            return "{ " + " ".join(_fields(struct, "")).removesuffix(";") + " }"
        case _:
            return _PLAIN[type(kind)]


if __name__ == "__main__":
    EVENTS.write_text(declared())
