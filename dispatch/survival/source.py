"""Where functions are written: their syntax trees, and whose code they are."""

from __future__ import annotations

import ast
import linecache
import sysconfig
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from functools import lru_cache
from pathlib import Path
from types import FunctionType

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

#: Reading a longer one would be felt when a server starts.
MAX_LIBRARY_CHARACTERS = 300_000

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


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


class File:
    """A file's functions, by the line that each begins at: a decorator's, if it has one."""

    def __init__(self, text: str):
        self.functions: dict[int, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                self.functions[first] = node


@lru_cache(maxsize=16)
def _parsed(text: str) -> File | None:
    try:
        return File(text)
    except (SyntaxError, ValueError):
        return None  # not the text that was imported


def file_of(filename: str) -> File | None:
    """A file of source, if it can be read."""
    linecache.checkcache(filename)
    text = "".join(linecache.getlines(filename))
    if whose(filename) is not Whose.AUTHOR and len(text) > MAX_LIBRARY_CHARACTERS:
        return None
    return _parsed(text) if text else None


def node_of(fn: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The `def` of a function, if its source is there."""
    file = file_of(fn.__code__.co_filename)
    node = None if file is None else file.functions.get(fn.__code__.co_firstlineno)
    return node if node is not None and node.name == fn.__name__ else None


def own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of a body; of functions defined in it, only the function."""
    for node in body:
        yield node
        if not isinstance(node, _FUNCTIONS):
            yield from own_nodes(ast.iter_child_nodes(node))


def has_yield(body: Iterable[ast.AST]) -> bool:
    return any(isinstance(node, ast.Yield) for node in own_nodes(body))


def body_of(node: FunctionNode) -> list[ast.AST]:
    return [node.body] if isinstance(node, ast.Lambda) else list(node.body)
