"""A server that says how much memory it takes: the child process of test_frozen.py."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

import anyio
import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from dispatch.app import create_app
from dispatch.examples.tokens import tokens
from tests.serving import serve


async def rss(_: Request) -> PlainTextResponse:
    gc.collect()
    return PlainTextResponse(str(psutil.Process().memory_info().rss))


async def main(db: str) -> None:
    inner = create_app([tokens], db)
    outer = Starlette(
        routes=[Route("/rss", rss), Mount("/", inner)], lifespan=inner.router.lifespan_context
    )
    async with serve(outer) as url:
        print(url, flush=True)  # noqa: T201 - that is how the parent learns it
        await anyio.to_thread.run_sync(os.read, 0, 1)  # until the parent closes its end


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
