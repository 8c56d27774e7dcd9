"""First mistakes of flow authors, each with a sentence that says what to write instead, and where.

Some show when a flow is registered, by its source; the rest when it yields. The loader explains
what Python itself refuses (`return value`).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType, FunctionType, GeneratorType
from typing import Any

from dispatch.core.errors import FlowMistake
from dispatch.core.events import EventBase, TextComplete, TextStart

#: An exception may quote all that it was given.
MESSAGE_CHARACTERS = 10_000


def line_of(fn: Callable[..., Any]) -> str:
    """`file:line` where `fn` is defined."""
    code: CodeType | None = getattr(inspect.unwrap(fn), "__code__", None)
    return "?" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def check_flow(fn: Callable[..., Any]) -> None:
    """Read a flow's source as it is decorated.

    Raises `FlowMistake` for what can't work: a flow that doesn't yield, or that yields inside
    `finally`.
    """
    if not inspect.isasyncgenfunction(fn):
        kind = "a coroutine" if inspect.iscoroutinefunction(fn) else "a plain function"
        raise FlowMistake(
            f"{fn.__name__} is {kind}, and a flow is an async generator: write `async def` and at "
            f"least one `yield` ({line_of(fn)})"
        )
    code: CodeType = fn.__code__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    except (OSError, SyntaxError):
        return  # made without a source file: nothing to read
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    for node in _own_nodes(ast.iter_child_nodes(tree.body[0])):
        if isinstance(node, ast.Try | ast.TryStar):
            for inner in _own_nodes(node.finalbody):
                if isinstance(inner, ast.Yield):
                    raise FlowMistake(
                        f"{fn.__name__} yields inside `finally`, which also runs when the "
                        "generator is merely closed for a while: put what must be undone "
                        "under `except Cancelled` "
                        f"({code.co_filename}:{inner.lineno})"
                    )


def _own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of a body but those of functions defined in it."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _own_nodes(ast.iter_child_nodes(node))


def explain_yield(value: Any) -> FlowMistake:
    """Why `value` cannot be yielded, and what to write; without the place."""
    if isinstance(value, tuple):
        why = "a tuple was yielded: for several waits at once write `yield gather(a, b)`"
    elif isinstance(value, CoroutineType):
        value.close()  # else Python warns that it was never awaited
        why = (
            f"the coroutine {value.__name__} was yielded: decorate its function with @step, "
            f"or write `yield step({value.__name__}, …)`"
        )
    elif isinstance(value, TextStart | TextComplete):
        why = "text blocks are opened and closed for you: yield the text itself, a str"
    elif isinstance(value, EventBase):
        why = (
            f"{type(value).type_name()} events are written by the engine: yield text, a wait, "
            "or another event"
        )
    elif isinstance(value, FunctionType):
        why = f"the function {value.__name__} was yielded: call it, `yield {value.__name__}(…)`"
    elif isinstance(value, GeneratorType):
        why = (
            f"the generator {value.__name__} was yielded: a helper that suspends is an `async def` "
            "with yields"
        )
    elif value is None:
        why = "a bare `yield` was reached: yield text, an event, or a wait"
    else:
        why = (
            f"a value of type {type(value).__name__} was yielded: yield text, an event of "
            "dispatch.events, or a wait (a step, tool, approval, sleep, gather, race)"
        )
    return FlowMistake(why)


def explain_syntax(error: SyntaxError) -> FlowMistake | None:
    """The sentence for `return value` in a flow, which Python refuses to compile; None for the
    rest.
    """
    if error.msg and "'return' with value in async generator" in error.msg:
        return FlowMistake(
            "a flow cannot `return` a value: write `yield result(value)` and a bare `return` "
            f"({error.filename}:{error.lineno})"
        )
    return None


def message_of(error: BaseException) -> str:
    """What an author's exception says, as text that any journal holds; empty if it says nothing."""
    try:
        message = str(error)
    except Exception:  # it is somebody's own class
        return ""
    # Surrogates come from file names that are no UTF-8.
    return message[:MESSAGE_CHARACTERS].encode(errors="replace").decode()


def suspended_at(generator: AsyncGenerator[Any, Any]) -> str:
    """`file:line` of the yield that `generator` stands at, or where it came to its end."""
    if not isinstance(generator, AsyncGeneratorType):
        return repr(generator)  # somebody's own class
    code, frame = generator.ag_code, generator.ag_frame
    return f"{code.co_filename}:{code.co_firstlineno if frame is None else frame.f_lineno}"
