"""Reads a flow and what it calls, and says what in there a restart would change.

One `_Reader` reads one function. An author's helpers are followed wherever they lead, steps never:
they may do anything. A library is followed a few calls deep, and only for what it does by itself.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from dispatch.survival.fields import factories
from dispatch.survival.hazards import (
    ASYNC_FOR,
    AWAIT,
    CLEANUP,
    ENVIRONMENT,
    FILE,
    SCOPE,
    SET_ORDER,
    STATE,
    Hazard,
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
_CALLS_ITS_FIRST = (map, filter, functools.reduce)


def warnings_of(fn: FunctionType) -> list[str]:
    """What in the flow `fn`, or in what it calls, would not survive a restart: a sentence each."""
    told: dict[tuple[str, str], str] = {}
    for found in _Reading().follow(fn, None, How()):
        hazard, lines = found.hazard, " → ".join(found.lines)
        sentence = f"{fn.__name__} {hazard.does.format(found.what)}: {hazard.why}"
        # Of one kind once a line, and of each global once.
        key = found.what.split("`")[1] if hazard is STATE else found.lines[0]
        told.setdefault((key, hazard.does), f"{sentence}; {hazard.instead} ({lines})")
    return list(told.values())


class Finding(NamedTuple):
    """`what` is how it is written. `lines`: `file:line` of it, behind those that lead there."""

    hazard: Hazard
    what: str
    lines: tuple[str, ...]


class How(NamedTuple):
    """How a function is read. `hands_on`: what it is given is what the author gave. `cleans_up`: it
    runs while the flow is closed. `only_cleanup`: it is a context manager, of which only that
    matters.
    """

    library_depth: int = 0
    hands_on: bool = True
    cleans_up: bool = False
    only_cleanup: bool = False

    @property
    def in_library(self) -> bool:
        return self.library_depth > 0


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


class _Reader(ast.NodeVisitor):
    def __init__(self, reading: _Reading, scope: Scope, how: How, filename: str):
        self.findings: list[Finding] = []
        self._reading, self._scope, self._how, self._filename = reading, scope, how, filename
        self._in_yield = False

    def visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def warn(self, hazard: Hazard, node: ast.AST, what: str = "") -> None:
        how = self._how
        if (hazard.in_libraries or not how.in_library) and (how.cleans_up or not how.only_cleanup):
            told = CLEANUP if how.cleans_up and hazard.seen else hazard
            self.findings.append(Finding(told, what, (self._line(node),)))

    def _came_by(self, node: ast.AST, findings: Sequence[Finding]) -> None:
        """What was found in what is called there."""
        here = self._line(node)
        for found in findings:
            lines = found.lines if found.lines[0] == here else (here, *found.lines)
            self.findings.append(found._replace(lines=lines))

    def _line(self, node: ast.AST) -> str:
        return f"{self._filename}:{getattr(node, 'lineno', '?')}"

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
                self._call(called, node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _ENTERING:
            for entered in [node.func.value, *node.args]:
                if is_scope(self._scope.value(entered)):
                    self.warn(SCOPE, node, f"`{ast.unparse(entered)}`")
        self._given_to(called, node)
        before = self._in_yield
        self._in_yield = before and not _is_one_of(called, _ORDER_MATTERS_NOT)
        self.generic_visit(node)
        self._in_yield = before

    def _call(self, called: Value | None, node: ast.Call) -> None:
        has_arguments = bool(node.args or node.keywords)
        hazard = self._reading.hazards.of_call(called, has_arguments=has_arguments)
        if hazard is None:
            self._follow(called, node)
            if isinstance(called, Known) and isinstance(called.object, type):
                self._fill(called.object, node)
        elif hazard is not FILE or self._hands_on(node):
            self.warn(hazard, node, f"`{ast.unparse(node.func)}`")

    def _hands_on(self, node: ast.AST) -> bool:
        """Whether what is called there works on what the author has named. Of files that a library
        opens, these may change; the others are its own.
        """
        if not self._how.in_library:
            return True
        arguments = [*node.args, node.func] if isinstance(node, ast.Call) else []
        return self._how.hands_on and any(self._is_given(one) for one in arguments)

    def _is_given(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self._scope.parameters
            case ast.Attribute(value=ast.Call(args=[only])) | ast.Call(args=[only]):
                return self._is_given(only)  # Path(path).read_text, str(path)
            case _:
                return False

    def _fill(self, cls: type, node: ast.Call) -> None:
        """The fields that are not given are filled by calls that nobody has written there."""
        given = {keyword.arg for keyword in node.keywords}
        for position, name, factory in factories(cls):
            if position >= len(node.args) and not {name, None} & given:
                field = ast.Attribute(node.func, name, ast.Load())
                self._call(Known(factory), ast.copy_location(ast.Call(field, [], []), node))

    def _given_to(self, called: Value | None, node: ast.Call) -> None:
        """Functions that are given to one that calls them."""
        given = [one.value for one in node.keywords if one.arg == "key"]
        if _is_one_of(called, _CALLS_ITS_FIRST):
            given += node.args[:1]
        for argument in given:
            call = ast.copy_location(ast.Call(argument, [ast.Constant(None)], []), argument)
            self._call(self._scope.value(argument), call)

    def _follow(self, called: Value | None, node: ast.AST, *, only_cleanup: bool = False) -> None:
        how = self._how._replace(
            hands_on=self._hands_on(node), only_cleanup=self._how.only_cleanup or only_cleanup
        )
        match called:
            case Nested(inner):
                if not self._is_nested_step(inner):
                    found = self._reading.follow_nested(called, how, self._filename)
                    self._came_by(node, found)
            case Known(type() as cls):
                for name in ("__init__", "__post_init__"):
                    self._follow_method(cls, name, Made(cls), node, how)
            case Known(function, owner):
                plain_function = plain(function)
                if isinstance(plain_function, FunctionType):
                    if not inspect.iscoroutinefunction(plain_function):
                        first = None if isinstance(function, staticmethod) else owner
                        self._came_by(node, self._reading.follow(plain_function, first, how))
                elif not inspect.isroutine(plain_function):
                    cls, owner = type(plain_function), Known(plain_function)
                    self._follow_method(cls, "__call__", owner, node, how)
            case Made(type() as cls):
                self._follow_method(cls, "__call__", called, node, how)
            case _:
                pass

    def _follow_method(self, cls: type, name: str, owner: Value, node: ast.AST, how: How) -> None:
        method = plain(inspect.getattr_static(cls, name, None))
        if isinstance(method, FunctionType):
            self._came_by(node, self._reading.follow(method, owner, how))

    def _is_nested_step(self, node: FunctionNode) -> bool:
        if isinstance(node, ast.Lambda):
            return False
        for one in node.decorator_list:
            match self._scope.value(one.func if isinstance(one, ast.Call) else one):
                case Known(decorator) if decorator is step:
                    return True
                case _:
                    pass
        return False

    # --- what is not recorded ---------------------------------------------------------------------

    def visit_Await(self, node: ast.Await) -> None:
        call = node.value
        function = call.func if isinstance(call, ast.Call) else None
        hazard = self._reading.hazards.of_call(self._scope.value(function), has_arguments=True)
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
                    self._follow_method(cls, name, entered, node, how)
                self.visit(node)
            case Made(by) if isinstance(plain(by), FunctionType):
                self._follow(Known(by), node, only_cleanup=True)
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
                    changed = self._reading.changed_in(self._filename, self._scope.globals)
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


def _is_one_of(value: Value | None, functions: Iterable[object]) -> bool:
    return isinstance(value, Known) and any(value.object is one for one in functions)


def _are_numbers(node: ast.expr) -> bool:
    return isinstance(node, ast.Set) and all(
        isinstance(one, ast.Constant) and isinstance(one.value, int) for one in node.elts
    )


def _is_code(value: Any) -> bool:
    return isinstance(value, type | ModuleType) or inspect.isroutine(value)
