"""`/examples`: a page for each way that a browser may follow a flow, short enough to be copied.

The pages name the server by relative addresses, so they also work where it is mounted, and use the
example flows. Persona isn't ours to ship: it is served from where npm puts it.
"""

from __future__ import annotations

import re
from pathlib import Path

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_PAGES = Path(__file__).parent
_PAGE = re.compile(r"[a-z]+")
#: Within the folder that the server was started in.
_PERSONA = Path("node_modules", "@runtypelabs", "persona", "dist")
_PERSONA_FILE = re.compile(r"[a-z-]+(\.global)?\.(js|css)")
# Not left to `mimetypes`, which reads the machine's own lists on the loop.
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}


def routes() -> list[Route]:
    return [
        Route("/examples", _page, methods=["GET"]),
        Route("/examples/{page}", _page, methods=["GET"]),
        Route("/examples/persona/{file}", _persona, methods=["GET"]),
    ]


async def _page(request: Request) -> Response:
    name = request.path_params.get("page", "index")
    if _PAGE.fullmatch(name) is None:
        raise HTTPException(404, f"there is no example {name[:100]!r}")
    return await _file(_PAGES / f"{name}.html", f"there is no example {name!r}")


async def _persona(request: Request) -> Response:
    name = request.path_params["file"]
    if _PERSONA_FILE.fullmatch(name) is None:
        raise HTTPException(404, f"Persona has no file {name[:100]!r}")
    return await _file(
        _PERSONA / name,
        f"no {_PERSONA / name} where the server was started: "
        "npm install @runtypelabs/persona puts it there",
    )


async def _file(path: Path, otherwise: str) -> Response:
    if not await anyio.Path(path).is_file():
        raise HTTPException(404, otherwise)
    return FileResponse(path, media_type=_TYPES[path.suffix])
