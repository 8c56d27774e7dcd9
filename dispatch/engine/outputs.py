"""Whether an output fits its call's `returns=`, by the JSON Schema that the call was recorded with.

The schema is asked before the output is taken, by whichever worker takes it; the flow decodes the
output by its type later. So the schema is read as strictly as msgspec reads the type: what passes
here is decoded there.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import jsonschema
import msgspec

from dispatch.core.errors import Detail, Unprocessable
from dispatch.core.settle import unwrap_mcp
from dispatch.store.base import WaitRow

_STR = msgspec.json.schema(str)

#: The formats that msgspec gives to its schemas.
_FORMATS: dict[str, Any] = {
    "date-time": datetime,
    "date": date,
    "decimal": Decimal,
    "duration": timedelta,
    "time": time,
    "uuid": UUID,
}


def check_output(row: WaitRow, raw: bytes) -> None:
    """Raise `Unprocessable` unless the output fits the call's `returns=`."""
    if row.returns is None:
        return
    schema = msgspec.json.decode(row.returns)
    if not row.raw:
        raw, failure = unwrap_mcp(raw, parse=schema != _STR)
        if failure is not None:
            return  # an error the tool reports is a legal output: ToolFailed is raised in the flow
    value = msgspec.json.decode(raw)
    misfits = [
        Detail(message=misfit.message, path=misfit.json_path, code="output-invalid")
        for misfit in _Validator(schema, format_checker=_FORMAT_CHECKER).iter_errors(value)
    ]
    if misfits:
        raise Unprocessable(
            f"the output for {row.name} ({row.id}) does not fit: {misfits[0].message}",
            code="output-invalid",
            details=misfits,
        )


def _is_integer(_: Any, value: Any) -> bool:
    # JSON Schema takes 7.0 for an integer, msgspec doesn't.
    return isinstance(value, int) and not isinstance(value, bool)


def _base64(_: Any, encoding: Any, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    # JSON Schema only notes an encoding.
    if isinstance(value, str) and encoding == "base64" and not _reads(value, bytes):
        yield jsonschema.ValidationError(f"{value!r} is not base64")


def _reads(value: Any, wanted: Any) -> bool:
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return False
    return True


def _format_checker() -> jsonschema.FormatChecker:
    checker = jsonschema.FormatChecker(formats=())
    for name, wanted in _FORMATS.items():
        checker.checks(name)(
            lambda value, wanted=wanted: not isinstance(value, str) or _reads(value, wanted)
        )
    return checker


_FORMAT_CHECKER = _format_checker()
_Validator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # it has no types
    jsonschema.Draft202012Validator,
    validators={"contentEncoding": _base64},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)
