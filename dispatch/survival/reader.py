"""Reads a flow and what it calls, and says what in there a restart would change.

One `_Reader` reads one function, and gives back what it found; whoever called that function puts
its own line before.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

from dispatch.survival.calls import Calls, Finding, How, is_one_of
from dispatch.survival.hazards import (
    ASYNC_FOR,
    AWAIT,
    CLEANUP,
    ENVIRONMENT,
    SCOPE,
    SET_ORDER,
    STATE,
    Hazards,
    words,
)
from dispatch.survival.names import Known, Made, Nested, Scope, Value, plain
from dispatch.survival.scopes import is_scope
from dispatch.survival.source import (
    FunctionNode,
    Whose,
    body_of,
    functions_of,
    has_yield,
    node_of,
    whose,
)
from dispatch.survival.state import changed_in, changes
from dispatch.yields import is_step, step

logger = logging.getLogger(__name__)

#: What is read for one flow, and how deep in libraries: registering it has to stay quick.
MAX_FUNCTIONS = 150
LIBRARY_DEPTH = 4

#: How methods are called that clean up what lives in this process.
_CLOSING = words(
    "__aexit__ aclose cancel close disconnect flush join kill release shutdown stop terminate "
    "wait_closed"
)
#: By which what is entered stays open, an exit stack's included.
_ENTERING = ("__enter__", "__aenter__", "enter_context", "enter_async_context")
_ORDER_MATTERS_NOT = (all, any, frozenset, len, max, min, set, sorted, sum)


def warnings_of(fn: FunctionType) -> list[str]:
    """What in the flow `fn`, or in what it calls, would not survive a restart: a sentence each.

    Never raises, whatever the author's objects are like.
    """
    try:
        findings = _Reading().follow(fn, None, How())
    except Exception:  # a class of theirs may raise for being looked at, and the flow still run
        logger.warning("%s could not be read", fn.__name__, exc_info=True)
        return []
    told: dict[tuple[str, str], str] = {}
    for found in findings:
        hazard, lines = found.hazard, " → ".join(found.lines)
        sentence = f"{fn.__name__} {hazard.does.format(found.what)}: {hazard.why}"
        # Of one kind once a line, and of each global once.
        key = found.what.split("`")[1] if hazard is STATE else found.lines[0]
        told.setdefault((key, hazard.does), f"{sentence}; {hazard.instead} ({lines})")
    return list(told.values())


class _Reading:
    """What is known while one flow is read: each function is read once for each way it is used."""

    def __init__(self) -> None:
        self.hazards = Hazards()
        self._found: dict[tuple[object, How], Sequence[Finding]] = {}
        self._changed: dict[str, Mapping[str, str]] = {}

    def follow(self, fn: FunctionType, owner: Value | None, how: How) -> Sequence[Finding]:
        """Read a function that exists, called from a place that is read like `how`."""
        filename = fn.__code__.co_filename
        if whose(filename) is Whose.PYTHON or _is_ours(fn) or self.hazards.covers(fn.__module__):
            return ()
        if whose(filename) is Whose.LIBRARY:
            how = how._replace(library_depth=how.library_depth + 1)
        key = (fn.__code__, how)
        if self._is_new(key) and (node := node_of(fn)) is not None:
            self._found[key] = self._read(node, Scope.of(fn, node, owner), how, filename)
        return self._found.get(key, ())

    def follow_nested(self, nested: Nested, how: How, filename: str) -> Sequence[Finding]:
        key = (nested.node, how)
        if self._is_new(key):
            scope = nested.scope.nested(nested.node)
            self._found[key] = self._read(nested.node, scope, how, filename)
        return self._found.get(key, ())

    def _is_new(self, key: tuple[object, How]) -> bool:
        if key in self._found or len(self._found) >= MAX_FUNCTIONS:
            return False
        self._found[key] = ()  # while it is read: it may call itself
        return key[1].library_depth <= LIBRARY_DEPTH

    def _read(self, node: FunctionNode, scope: Scope, how: How, filename: str) -> Sequence[Finding]:
        reader = _Reader(self, scope, how, filename)
        if not how.in_library:
            for change in changes(node, scope):
                reader.warn(STATE, change.node, f"changes `{change.name}`")
        reader.visit_all(body_of(node))
        return reader.findings

    def changed_in(self, filename: str, globals: Mapping[str, Any]) -> Mapping[str, str]:
        """Globals of an author's file that functions in there change, and which does."""
        if filename not in self._changed:
            self._changed[filename] = changed_in(functions_of(filename), globals)
        return self._changed[filename]


def _is_ours(fn: FunctionType) -> bool:
    """Whether it is of this package, whose examples count as an author's."""
    module = f"{fn.__module__}."
    package = __name__.partition(".")[0]
    return module.startswith(f"{package}.") and not module.startswith(f"{package}.examples.")


class _Reader(Calls):
    """Adds to a function's calls what else it does."""

    _in_yield = False

    # --- functions: read where they are called ----------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None: ...

    # --- calls ------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        called = self._scope.value(node.func)
        if Hazards.is_log(called):
            return
        match called:
            case Known(function) if function is step:
                self.visit_all(inner for inner in node.args if not isinstance(inner, ast.Lambda))
                self.visit_all(node.keywords)
                return
            case Known(function) if is_step(function):
                if self._how.cleans_up:
                    self.warn(CLEANUP, node)
            case _:
                self.call(called, node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _ENTERING:
            for entered in [node.func.value, *node.args]:
                if is_scope(self._scope.value(entered)):
                    self.warn(SCOPE, node, f"`{ast.unparse(entered)}`")
        self.given_to(called, node)
        before = self._in_yield
        self._in_yield = before and not is_one_of(called, _ORDER_MATTERS_NOT)
        self.generic_visit(node)
        self._in_yield = before

    # --- what is not recorded ---------------------------------------------------------------------

    def visit_Await(self, node: ast.Await) -> None:
        call = node.value
        function = call.func if isinstance(call, ast.Call) else None
        hazard = self._library.hazards.of_call(self._scope.value(function), has_arguments=True)
        if hazard is None:
            if not self._how.cleans_up:
                self.warn(AWAIT, node)
            elif not (isinstance(function, ast.Attribute) and function.attr in _CLOSING):
                self.warn(CLEANUP, node)
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.warn(ASYNC_FOR, node)
        self.visit(node.target)
        self.generic_visit(node.iter)  # not the call: it is told of
        self.visit_all([*node.body, *node.orelse])

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if node.is_async:
            self.warn(ASYNC_FOR, node.iter)
        elif self._in_yield:
            self._ordered(node.iter)
        self.generic_visit(node)

    # --- scopes and clean-up ----------------------------------------------------------------------

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            entered = self._scope.value(item.context_expr)
            if is_scope(entered):
                if has_yield(node.body):
                    self.warn(SCOPE, item.context_expr, f"`{ast.unparse(item.context_expr)}`")
            else:
                self._enter(entered, item.context_expr)
        self.visit_all(node.body)

    visit_AsyncWith = visit_With

    def _enter(self, entered: Value | None, node: ast.expr) -> None:
        """Leaving it counts as clean-up. Entering it is no matter: a client may be opened."""
        match entered:
            case Made(type() as cls):
                for name in ("__exit__", "__aexit__"):
                    how = self._how._replace(cleans_up=True)
                    self.follow_method(cls, name, entered, node, how)
                self.visit(node)
            case Made(by) if isinstance(plain(by), FunctionType):
                self.follow(Known(by), node, only_cleanup=True)
                self.generic_visit(node)
            case _:
                self.visit(node)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        self.visit_all(node.body)
        closing = next((one for one in node.handlers if self._catches_closing(one)), None)
        for handler in node.handlers:
            if handler is closing:
                self._visit_cleanup(handler.body)
            elif not self._how.in_library:  # what a library does only if something is wrong
                self.visit_all(handler.body)
        self.visit_all(node.orelse)
        self._visit_cleanup(node.finalbody)

    visit_TryStar = visit_Try

    def _catches_closing(self, handler: ast.ExceptHandler) -> bool:
        caught = handler.type
        for one in caught.elts if isinstance(caught, ast.Tuple) else [caught]:
            match self._scope.value(one):
                case Known(kind) if kind in (GeneratorExit, BaseException):
                    return True
                case _:
                    pass
        return caught is None

    def _visit_cleanup(self, nodes: Iterable[ast.AST]) -> None:
        how = self._how
        self._how = how._replace(cleans_up=True)
        self.visit_all(nodes)
        self._how = how

    # --- state, environment, order ----------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and not self._how.in_library:
            self._look(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._look(node)
        self.generic_visit(node)

    def _look(self, node: ast.Name | ast.Attribute) -> None:
        match self._scope.value(node):
            case Known(found) if found is os.environ or found is sys.argv:
                self.warn(ENVIRONMENT, node, f"`{ast.unparse(node)}`")
            case Known(found) if isinstance(node, ast.Name) and not _is_code(found):
                if not self._scope.is_local(node.id):
                    changed = self._library.changed_in(self._filename, self._scope.globals)
                    if node.id in changed:
                        self.warn(
                            STATE, node, f"reads `{node.id}`, which {changed[node.id]} changes"
                        )
            case _:
                pass

    def visit_For(self, node: ast.For) -> None:
        if has_yield(node.body):
            self._ordered(node.iter)
        self.generic_visit(node)

    def visit_Yield(self, node: ast.Yield) -> None:
        before, self._in_yield = self._in_yield, True
        self.generic_visit(node)
        self._in_yield = before

    def _ordered(self, iterated: ast.expr) -> None:
        """What comes in this order is yielded: of a set of anything but numbers it is by chance."""
        made_by = self._scope.value(iterated)
        is_set = isinstance(made_by, Made) and made_by.by in (set, frozenset)
        if is_set and not _are_numbers(iterated):
            self.warn(SET_ORDER, iterated, f"`{ast.unparse(iterated)}`")

    # --- what a helper does only for what it isn't given -----------------------------------------

    def visit_If(self, node: ast.If) -> None:
        self.visit_all([node.test, *([] if self._is_given_in(node.test) else node.body)])
        self.visit_all(node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit_all([node.test, node.orelse])
        if not self._is_given_in(node.test):
            self.visit(node.body)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        if not (isinstance(node.op, ast.Or) and self._is_argument(node.values[0])):
            self.generic_visit(node)

    def _is_given_in(self, test: ast.expr) -> bool:
        """Whether it asks for an argument that isn't there, and it is; or, of a library, for a
        value that is a case of its own.
        """
        match test:
            case ast.Compare(left=asked, ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
                return self._is_argument(asked)
            case ast.UnaryOp(op=ast.Not(), operand=asked):
                return self._is_argument(asked)
            case ast.Compare(left=asked, ops=[ast.Eq()], comparators=[ast.Constant()]):
                return self._how.in_library and self._is_argument(asked)  # `if zone == "local"`
            case _:
                return False

    def _is_argument(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self._how.given


def _are_numbers(node: ast.expr) -> bool:
    return isinstance(node, ast.Set) and all(
        isinstance(one, ast.Constant) and isinstance(one.value, int) for one in node.elts
    )


def _is_code(value: Any) -> bool:
    return isinstance(value, type | ModuleType) or inspect.isroutine(value)
