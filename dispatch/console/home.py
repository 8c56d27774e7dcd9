"""`/`: what there is, for whoever opens the server's address in a browser.

Its links are relative, so that they work where the server is mounted, too.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_PAGE = Path(__file__).with_name("home.html")


def routes() -> list[Route]:
    return [Route("/", _home, methods=["GET"])]


async def _home(_: Request) -> Response:
    return FileResponse(_PAGE, media_type="text/html")
