"""What fills the fields that a class is not given: `field(default_factory=datetime.now)`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import msgspec


def factories(cls: type) -> Iterator[tuple[int, str, Callable[[], Any]]]:
    """Position, name and default factory of the fields of a data class, of whichever kind."""
    if isinstance(cls, type(msgspec.Struct)):
        for position, field in enumerate(msgspec.structs.fields(cls)):
            if field.default_factory is not msgspec.NODEFAULT:
                yield position, field.name, field.default_factory
    elif dataclasses.is_dataclass(cls):
        for position, one in enumerate(dataclasses.fields(cls)):
            if one.default_factory is not dataclasses.MISSING:
                yield position, one.name, one.default_factory
    else:  # pydantic, then attrs: neither has to be installed
        fields = inspect.getattr_static(cls, "__pydantic_fields__", None)
        for name, field in fields.items() if isinstance(fields, dict) else ():
            if getattr(field, "default_factory", None) is not None:
                yield len(fields), name, field.default_factory
        attributes = inspect.getattr_static(cls, "__attrs_attrs__", ())
        for position, attribute in enumerate(attributes):
            if hasattr(attribute.default, "factory"):
                yield position, attribute.name, attribute.default.factory
