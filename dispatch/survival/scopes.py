"""Cancel scopes, task groups and time limits, recognised behind any name and any wrapper."""

from __future__ import annotations

import ast
import sys
from types import FunctionType
from typing import Any

from dispatch.survival.hazards import words
from dispatch.survival.names import Known, Made, Named, Scope, Value, attribute, plain
from dispatch.survival.source import has_yield, node_of, own_nodes

_SCOPES = words(
    "anyio.CancelScope anyio.create_task_group anyio.fail_after anyio.move_on_after "
    "anyio.from_thread.BlockingPortal asyncio.TaskGroup asyncio.timeout asyncio.timeout_at "
    "async_timeout.timeout async_timeout.timeout_at quattro.TaskGroup trio.CancelScope "
    "trio.open_nursery trio.fail_after trio.fail_at trio.move_on_after trio.move_on_at"
)
_MAX_DEPTH = 5


def is_scope(value: Value | None, *, depth: int = 0) -> bool:
    """Whether entering it opens one: it is one, or a context manager that yields inside of one."""
    match value:
        case Named(name):
            return name in _SCOPES
        case Made(by) if depth < _MAX_DEPTH:
            made_by = plain(by)
            return any(made_by is one for one in _loaded()) or _yields_in_one(made_by, depth + 1)
        case _:
            return False


def _loaded() -> list[Any]:
    found = []
    for name in _SCOPES:
        module, _, attr = name.rpartition(".")
        match attribute(Known(sys.modules.get(module)), attr):
            case Known(one):
                found.append(plain(one))
            case _:
                pass
    return found


def _yields_in_one(made_by: Any, depth: int) -> bool:
    if not isinstance(made_by, FunctionType):
        return False
    node = node_of(made_by)
    if node is None or not has_yield(node.body):
        return False
    scope = Scope.of(made_by, node)
    return any(
        has_yield(inner.body)
        and any(is_scope(scope.value(one.context_expr), depth=depth) for one in inner.items)
        for inner in own_nodes(node.body)
        if isinstance(inner, ast.With | ast.AsyncWith)
    )
