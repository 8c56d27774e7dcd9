"""What a function calls: told if the table has it, and else followed.

An author's helpers are followed wherever they lead, steps never: they may do anything. A library is
followed a few calls deep, and only for what it does by itself.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from dispatch.survival.fields import factories
from dispatch.survival.hazards import CLEANUP, FILE, Hazard, Hazards
from dispatch.survival.names import Known, Made, Nested, Scope, Value, plain
from dispatch.survival.source import FunctionNode
from dispatch.yields import step

_CALLS_ITS_FIRST = (map, filter, functools.reduce)


class Finding(NamedTuple):
    """`what` is how it is written. `lines`: `file:line` of it, behind those that lead there."""

    hazard: Hazard
    what: str
    lines: tuple[str, ...]


class How(NamedTuple):
    """How a function is read. `given`: the parameters for which there are arguments. `hands_on`:
    what it is given is what the author gave. `cleans_up`: it runs while the flow is closed.
    `only_cleanup`: it is a context manager, of which only that matters.
    """

    library_depth: int = 0
    given: frozenset[str] = frozenset()
    hands_on: bool = True
    cleans_up: bool = False
    only_cleanup: bool = False

    @property
    def in_library(self) -> bool:
        return self.library_depth > 0


class Library(Protocol):
    """Where functions are read that are called."""

    hazards: Hazards

    def follow(self, fn: FunctionType, owner: Value | None, how: How) -> Sequence[Finding]:
        """What is found in a function that exists."""

    def follow_nested(self, nested: Nested, how: How, filename: str) -> Sequence[Finding]:
        """What is found in one that is defined in the one that is read."""

    def changed_in(self, filename: str, globals: Mapping[str, Any]) -> Mapping[str, str]:
        """Globals of an author's file that functions in there change, and which does."""


class Calls(ast.NodeVisitor):
    """Keeps what is found in one function, and in what that calls."""

    def __init__(self, library: Library, scope: Scope, how: How, filename: str):
        self.findings: list[Finding] = []
        self._library, self._scope, self._how, self._filename = library, scope, how, filename

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

    def call(self, called: Value | None, node: ast.Call) -> None:
        has_arguments = bool(node.args or node.keywords)
        hazard = self._library.hazards.of_call(called, has_arguments=has_arguments)
        if hazard is None:
            self.follow(called, node)
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
                self.call(Known(factory), ast.copy_location(ast.Call(field, [], []), node))

    def given_to(self, called: Value | None, node: ast.Call) -> None:
        """Functions that are given to one that calls them."""
        given = [one.value for one in node.keywords if one.arg == "key"]
        if is_one_of(called, _CALLS_ITS_FIRST):
            given += node.args[:1]
        for argument in given:
            call = ast.copy_location(ast.Call(argument, [ast.Constant(None)], []), argument)
            self.call(self._scope.value(argument), call)

    def follow(self, called: Value | None, node: ast.AST, *, only_cleanup: bool = False) -> None:
        how = self._how._replace(
            given=frozenset(),
            hands_on=self._hands_on(node),
            only_cleanup=self._how.only_cleanup or only_cleanup,
        )
        match called:
            case Nested(inner):
                if not self._is_nested_step(inner):
                    found = self._library.follow_nested(called, how, self._filename)
                    self._came_by(node, found)
            case Known(type() as cls):
                for name in ("__init__", "__post_init__"):
                    self.follow_method(cls, name, Made(cls), node, how)
            case Known(function, owner):
                plain_function = plain(function)
                if isinstance(plain_function, FunctionType):
                    if not inspect.iscoroutinefunction(plain_function):
                        first = None if isinstance(function, staticmethod) else owner
                        given = _given(plain_function, node, is_bound=first is not None)
                        how = how._replace(given=given)
                        self._came_by(node, self._library.follow(plain_function, first, how))
                elif not inspect.isroutine(plain_function):
                    cls, owner = type(plain_function), Known(plain_function)
                    self.follow_method(cls, "__call__", owner, node, how)
            case Made(type() as cls):
                self.follow_method(cls, "__call__", called, node, how)
            case _:
                pass

    def follow_method(self, cls: type, name: str, owner: Value, node: ast.AST, how: How) -> None:
        method = plain(inspect.getattr_static(cls, name, None))
        if isinstance(method, FunctionType):
            how = how._replace(given=_given(method, node, is_bound=True))
            self._came_by(node, self._library.follow(method, owner, how))

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


def is_one_of(value: Value | None, functions: Iterable[object]) -> bool:
    return isinstance(value, Known) and any(value.object is one for one in functions)


def _given(fn: FunctionType, node: ast.AST, *, is_bound: bool) -> frozenset[str]:
    """The parameters of `fn` for which the call has arguments that aren't None."""
    if not isinstance(node, ast.Call):
        return frozenset()
    code = fn.__code__
    arguments = [*zip(code.co_varnames[is_bound : code.co_argcount], node.args, strict=False)]
    arguments += [(one.arg, one.value) for one in node.keywords if one.arg is not None]
    return frozenset(
        name
        for name, value in arguments
        if not (isinstance(value, ast.Constant) and value.value is None)
    )
