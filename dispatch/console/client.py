"""`/client.js`: the client for browsers, one module that pages import as it is, and its types."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".ts": "text/plain"}


def routes() -> list[Route]:
    return [
        Route(f"/{name}", _file, methods=["GET"])
        for name in ("client.js", "client.d.ts", "events.d.ts")
    ]


async def _file(request: Request) -> Response:
    path = _FOLDER / request.scope["path"].rpartition("/")[2]
    # A page is to speak the language of the server as it is now.
    headers = {"Cache-Control": "no-cache"}
    return FileResponse(path, headers=headers, media_type=_TYPES[path.suffix])
