"""What functions change that outlives them: globals, what modules hold, closures."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dispatch.survival.hazards import words
from dispatch.survival.names import Known, Scope, path_of
from dispatch.survival.source import Definition, FunctionNode, body_of, own_nodes

_MUTATING = words(
    "add append appendleft clear difference_update discard extend insert intersection_update pop "
    "popitem popleft remove reverse setdefault sort symmetric_difference_update update"
)
_CONTAINERS = (list, dict, set, deque, bytearray)


class Change(NamedTuple):
    """`name` is bound outside of the function that changes it; `rebinds` if it becomes something
    else, and not only holds something else.
    """

    name: str
    node: ast.AST
    rebinds: bool


def changes(function: FunctionNode, scope: Scope) -> Iterator[Change]:
    """All that `function` changes of what is around the flow. Not what it makes once, on first use:
    `if client is None: client = Client()`.
    """
    nodes = list(own_nodes(body_of(function)))
    outer = {
        name
        for node in nodes
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
        if not scope.is_local(name)
    }
    once = {id(inner) for node in nodes for inner in _made_once(node)}
    for node in nodes:
        if id(node) in once:
            continue
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) if name in outer:
                yield Change(name, node, rebinds=True)
            case ast.Subscript(value=holder, ctx=ast.Store() | ast.Del()):
                yield from _held(holder, node, scope, _CONTAINERS)
            case ast.Attribute(value=holder, ctx=ast.Store() | ast.Del()):
                yield from _held(holder, node, scope, object)
            case ast.Call(func=ast.Attribute(value=holder, attr=name)) if name in _MUTATING:
                yield from _held(holder, node, scope, _CONTAINERS)
            case _:
                pass


def _held(holder: ast.expr, node: ast.AST, scope: Scope, kind: Any) -> Iterator[Change]:
    match scope.value(holder):
        case Known(found) if isinstance(found, kind):  # it is there already: not the flow's own
            yield Change(ast.unparse(holder), node, rebinds=False)
        case _:
            pass


def _made_once(node: ast.AST) -> Iterator[ast.AST]:
    """What stands under `if x is None`, `if not x` or `if key not in x`, if it sets x."""
    if not isinstance(node, ast.If):
        return
    match node.test:
        case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
            made = left
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            made = operand
        case ast.Compare(ops=[ast.NotIn()], comparators=[holder]):
            made = holder
        case _:
            return
    text = ast.unparse(made)
    for inner in own_nodes(node.body):
        match inner:
            case ast.Name() | ast.Attribute() if ast.unparse(inner) == text:
                yield inner
            case ast.Subscript(value=holder) if ast.unparse(holder) == text:
                yield inner
            case _:
                pass


def changed_in(functions: Iterable[Definition], globals: Mapping[str, Any]) -> dict[str, str]:
    """Which globals of a module its functions change, and which function does: those that any
    function makes something else, and those in which a step or flow changes something. (A function
    that fills a table is mostly done when all is imported.)
    """
    found: dict[str, str] = {}
    for node in functions:
        scope = Scope(node, globals)
        for change in changes(node, scope):
            root = change.name.partition(".")[0].partition("[")[0]
            is_global = root in globals and not scope.is_local(root)
            if is_global and (change.rebinds or _runs_in_executions(node, globals)):
                found.setdefault(root, node.name)
    return found


def _runs_in_executions(node: Definition, globals: Mapping[str, Any]) -> bool:
    scope = Scope(None, globals)
    for one in node.decorator_list:
        match scope.value(one.func if isinstance(one, ast.Call) else one):
            case Known(decorator):
                if path_of(decorator) in ("dispatch.yields.step", "dispatch.flow.flow"):
                    return True
            case _:
                pass
    return False
