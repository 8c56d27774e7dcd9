"""What an expression in a function stands for, found without running anything.

Names are resolved to objects (through locals, closures, globals, builtins, attributes), so that an
alias is what it is an alias of. Nothing of the author's is called: no property, no `__getattr__`.
What can't be known is None.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from dispatch.survival.source import FunctionNode, body_of, own_nodes


class Known(NamedTuple):
    """That very object. `owner` is what it was looked up in, unless that is a module: for a method
    the instance, or class, that it is called on.
    """

    object: Any
    owner: Value | None = None


class Made(NamedTuple):
    """What a call of `by` gave: an instance, if that is a class."""

    by: Any


class Named(NamedTuple):
    """Something that can't be looked at, by its full name: its module isn't loaded, or code would
    have to run.
    """

    name: str


class Nested(NamedTuple):
    """A function defined in the one that is read."""

    node: FunctionNode
    scope: Scope


Value = Known | Made | Named | Nested

#: How often names are looked up in each other: they may go in circles.
_MAX_DEPTH = 20


def plain(value: Any) -> Any:
    """A function without what its decorators put around it, a method without what it is bound to:
    for all the ways to write `datetime.now` it is one object.
    """
    for _ in range(_MAX_DEPTH):
        bound_to = getattr(value, "__self__", None) if inspect.isbuiltin(value) else None
        if bound_to is not None and not inspect.ismodule(bound_to):
            cls = bound_to if isinstance(bound_to, type) else type(bound_to)
            return inspect.getattr_static(cls, value.__name__, value)
        if isinstance(value, staticmethod | classmethod | MethodType):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = value.func
        elif "__wrapped__" in _vars(value):
            value = value.__wrapped__
        else:
            break
    return value


def _vars(value: Any) -> Mapping[str, Any]:
    try:
        names: Mapping[str, Any] = vars(value)
    except TypeError:
        return {}
    return names


def attribute(value: Value | None, name: str) -> Value | None:
    """What `value.name` stands for."""
    match value:
        case Known(ModuleType() as module):
            if name in vars(module):
                return Known(vars(module)[name])
            full_name = f"{module.__name__}.{name}"
            loaded = sys.modules.get(full_name)
            return Named(full_name) if loaded is None else Known(loaded)
        case Known(owner):
            return _member(owner, name, value)
        case Made(type() as cls):
            return _member(cls, name, value)
        case Made(by):
            given = _result_of(plain(by))
            return Named(f"{path_of(by)}.{name}") if given is None else attribute(given, name)
        case Named(full_name):
            return Named(f"{full_name}.{name}")
        case _:
            return None


def _member(holder: Any, name: str, owner: Value) -> Value | None:
    found = inspect.getattr_static(holder, name, None)
    if found is None or isinstance(found, property | functools.cached_property):
        return Named(f"{path_of(holder)}.{name}")
    return Known(found, owner)


def path_of(value: Any) -> str:
    """`module.Class.method`, also of a class's builtins; of an instance, its class's."""
    value = plain(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if not isinstance(value, type) and not inspect.isroutine(value):
        value = type(value)
    module = getattr(value, "__module__", None) or _module_of_method(value)
    return f"{module}.{getattr(value, '__qualname__', '?')}"


def _module_of_method(descriptor: Any) -> str:
    return str(getattr(getattr(descriptor, "__objclass__", None), "__module__", "?"))


def _result_of(fn: Any) -> Value | None:
    """What a function is annotated to return."""
    annotation = getattr(fn, "__annotations__", {}).get("return")
    if isinstance(annotation, type):
        return Made(annotation)
    if isinstance(annotation, str) and isinstance(fn, FunctionType):
        return _annotated(ast.Constant(annotation), Scope.of(fn, None))
    return None


def _annotated(annotation: ast.expr | None, scope: Scope) -> Value | None:
    """What a variable holds that is annotated so."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    if not isinstance(annotation, ast.Name | ast.Attribute):
        return None
    match scope.value(annotation):
        case Known(type() as cls):
            return Made(cls)
        case Named() as named:
            return named
        case _:
            return None


class Scope:
    """The names of one function. `owner` is what its first argument stands for, in a method."""

    def __init__(
        self,
        node: FunctionNode | None,
        globals: Mapping[str, Any],
        *,
        closed_over: Mapping[str, Any] | None = None,
        around: Scope | None = None,
        owner: Value | None = None,
    ):
        self.globals, self._around = globals, around
        self._closed_over = closed_over or {}
        self._bound: dict[str, list[Value | ast.expr | None]] = {}
        self.parameters: frozenset[str] = frozenset()
        self._depth = 0
        if node is not None:
            self._bind_arguments(node.args, owner)
            self.parameters = frozenset(self._bound)
            outer: set[str] = set()
            for inner in own_nodes(body_of(node)):
                if isinstance(inner, ast.Global | ast.Nonlocal):
                    outer.update(inner.names)
                for name, value in self._bindings(inner):
                    self._bound.setdefault(name, []).append(value)
            for name in outer:
                self._bound.pop(name, None)

    @classmethod
    def of(cls, fn: FunctionType, node: FunctionNode | None, owner: Value | None = None) -> Scope:
        closed_over = {}
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            try:
                closed_over[name] = cell.cell_contents
            except ValueError:
                continue  # not assigned yet
        return cls(node, fn.__globals__, closed_over=closed_over, owner=owner)

    def nested(self, node: FunctionNode) -> Scope:
        return Scope(node, self.globals, around=self)

    def is_local(self, name: str) -> bool:
        """Whether it belongs to the flow or helper that is read, and not to what is around it."""
        return name in self._bound or (self._around is not None and self._around.is_local(name))

    # --- what names are bound to ------------------------------------------------------------------

    def _bind_arguments(self, arguments: ast.arguments, owner: Value | None) -> None:
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in [*named, arguments.vararg, arguments.kwarg]:
            if argument is not None:
                self._bound[argument.arg] = [_annotated(argument.annotation, self)]
        if owner is not None and named:
            self._bound[named[0].arg] = [owner]

    def _bindings(self, node: ast.AST) -> Iterator[tuple[str, Value | ast.expr | None]]:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if isinstance(target, ast.Name):
                        yield target.id, value
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                yield name, value or _annotated(annotation, self)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                yield name, value
            case ast.withitem(context_expr=value, optional_vars=ast.Name(id=name)):
                yield name, value
            case ast.Import(names=names):
                for one in names:
                    whole = one.name if one.asname else one.name.partition(".")[0]
                    yield one.asname or whole, _module(whole)
            case ast.ImportFrom(module=module, names=names, level=level):
                for one in names:
                    source = _module(_absolute(module, level, self.globals))
                    yield one.asname or one.name, attribute(source, one.name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, Nested(node, self)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                yield name, None
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, None  # by a loop, say
            case _:
                pass

    # --- what expressions stand for ---------------------------------------------------------------

    def value(self, node: ast.expr | None) -> Value | None:
        self._depth += 1
        try:
            return None if self._depth > _MAX_DEPTH else self._value(node)
        finally:
            self._depth -= 1

    def _value(self, node: ast.expr | None) -> Value | None:
        match node:
            case ast.Name(id=name):
                return self._named(name)
            case ast.Attribute(value=inner, attr=name):
                return attribute(self.value(inner), name)
            case ast.NamedExpr(value=inner) | ast.Await(value=inner):
                return self.value(inner)
            case ast.Lambda():
                return Nested(node, self)
            case ast.Call(func=function, args=arguments):
                return self._called(self.value(function), arguments)
            case ast.Set() | ast.SetComp():
                return Made(set)
            case _:
                return None

    def _named(self, name: str) -> Value | None:
        if name in self._bound:
            values = (
                self.value(bound) if isinstance(bound, ast.expr) else bound
                for bound in self._bound[name]
            )
            return next((value for value in values if value is not None), None)
        if self._around is not None:
            return self._around.value(ast.Name(name, ast.Load()))
        for names in (self._closed_over, self.globals, vars(builtins)):
            if name in names:
                return Known(names[name])
        return None

    def _called(self, function: Value | None, arguments: list[ast.expr]) -> Value | None:
        match function:
            case Known(made_by) if made_by is functools.partial and arguments:
                return self.value(arguments[0])
            case Known(made_by) if made_by is importlib.import_module or made_by is __import__:
                return _module(_constant(arguments[:1]))
            case Known(made_by) if made_by is getattr and len(arguments) > 1:
                return attribute(self.value(arguments[0]), _constant(arguments[1:]) or "")
            case Known(made_by):
                return Made(made_by)
            case Named():
                return function
            case _:
                return None


def _constant(arguments: list[ast.expr]) -> str | None:
    match arguments:
        case [ast.Constant(value=str(text)), *_]:
            return text
        case _:
            return None


def _module(name: str | None) -> Value | None:
    if not name:
        return None
    return Known(sys.modules[name]) if name in sys.modules else Named(name)


def _absolute(module: str | None, level: int, globals: Mapping[str, Any]) -> str | None:
    if not level:
        return module
    package = str(globals.get("__package__") or "").split(".")
    return ".".join(chain(package[: len(package) - level + 1], [module] if module else []))
