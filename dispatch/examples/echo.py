"""Messages in, streamed text out: what a chat needs.

A step that is an async generator streams what it yields; its result is the joined text.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from dispatch import Flow, Run, flow, result, step


@flow("echo")
async def echo(run: Run[Any]) -> Flow:
    """Say the last user message back."""
    said = [text_of(message) for message in run.messages if message.get("role") == "user"]
    repeated = yield say_again(said[-1] if said else "")
    yield result(repeated)


@step(name="echo")
async def say_again(text: str) -> AsyncGenerator[str, None]:
    middle = (len(text) + 1) // 2
    yield text[:middle]
    yield text[middle:]


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text: its content is a string, or parts of which some are text."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")
