"""Where functions are written: their syntax trees, and whose code they are."""

from __future__ import annotations

import ast
import inspect
import linecache
import sysconfig
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from functools import lru_cache
from pathlib import Path
from types import FunctionType

Definition = ast.FunctionDef | ast.AsyncFunctionDef
FunctionNode = Definition | ast.Lambda


class Whose(Enum):
    AUTHOR = auto()
    LIBRARY = auto()
    PYTHON = auto()


@lru_cache(maxsize=256)
def whose(filename: str) -> Whose:
    """Whose code a file is. What is installed is a library's; what has no file is Python's own."""
    path = Path(filename)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return Whose.LIBRARY
    if filename.startswith("<") or path.is_relative_to(sysconfig.get_path("stdlib")):
        return Whose.PYTHON
    return Whose.AUTHOR


def node_of(fn: FunctionType) -> Definition | None:
    """The `def` of a function, if its source is there. Only its own lines are read: a library's
    file may have thousands.
    """
    code = fn.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    if not lines:
        return None
    try:
        block = "".join(inspect.getblock(lines))
        # In its place, so that its nodes have their lines; `if` for that it is indented.
        if block[0].isspace():
            before = "\n" * (code.co_firstlineno - 2) + "if 1:\n"
        else:
            before = "\n" * (code.co_firstlineno - 1)
        functions = definitions(ast.parse(before + block))
        return next(node for node in functions if node.name == code.co_name)
    except (SyntaxError, ValueError, StopIteration):
        return None  # a lambda, or not the text that was imported


@lru_cache(maxsize=4)
def _parsed(text: str) -> tuple[Definition, ...]:
    try:
        return tuple(definitions(ast.parse(text)))
    except (SyntaxError, ValueError):
        return ()


def functions_of(filename: str) -> tuple[Definition, ...]:
    """All functions that a file defines, if it can be read."""
    linecache.checkcache(filename)
    return _parsed("".join(linecache.getlines(filename)))


def definitions(node: ast.AST) -> Iterator[Definition]:
    """All functions defined in there, the outer ones first."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Definition):
            yield inner
        if isinstance(inner, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from definitions(inner)


def own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of a body; of functions defined in it, only the function."""
    for node in body:
        yield node
        if not isinstance(node, FunctionNode):
            yield from own_nodes(ast.iter_child_nodes(node))


def has_yield(body: Iterable[ast.AST]) -> bool:
    return any(isinstance(node, ast.Yield) for node in own_nodes(body))


def body_of(node: FunctionNode) -> list[ast.AST]:
    return [node.body] if isinstance(node, ast.Lambda) else list(node.body)
