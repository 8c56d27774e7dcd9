"""The guides (`dispatch/docs`), as they are packaged: plain text, for browsers and curl alike.

Error bodies name their code's place there.
"""

from __future__ import annotations

import re
from pathlib import Path

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

DOCS = Path(__file__).parent.parent / "docs"
_PAGE = re.compile(r"[a-z]+")


def routes() -> list[Route]:
    return [
        Route("/guide", _guide, methods=["GET"]),
        Route("/guide/{page}", _guide, methods=["GET"]),
    ]


async def _guide(request: Request) -> Response:
    # Links between the pages work from here too: `flows.md` is `flows`.
    page = request.path_params.get("page", "index").removesuffix(".md")
    path = anyio.Path(DOCS / f"{page}.md")
    if _PAGE.fullmatch(page) is None or not await path.is_file():
        raise HTTPException(404, f"the guide has no page {page[:100]!r}")
    # As text/markdown a browser would save it instead of showing it.
    return PlainTextResponse(await path.read_text("utf-8"))
