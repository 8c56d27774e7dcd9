"""The guides (`dispatch/docs`), as they are packaged: rendered for browsers, plain text for curl.

Error bodies name their code's place there.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import anyio.to_thread
from markdown_it import MarkdownIt
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

DOCS = Path(__file__).parent.parent / "docs"
_PAGE = re.compile(r"[a-z]+")
_VARY = {"Vary": "Accept"}
# `base`: links between the pages go from /guide, too, to /guide/….
_HTML = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>dispatch: {title}</title>
{base}<style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 52rem; margin: auto; padding: 1rem }}
pre {{ background: #8881; padding: .8rem; overflow-x: auto; line-height: 1.4 }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ border-bottom: 1px solid #8884; padding: .3rem .8rem; text-align: left }}
td {{ vertical-align: top }}
</style>
<p><a href="{index}">The guides</a></p>
{body}"""


def routes() -> list[Route]:
    return [
        Route("/guide", _guide, methods=["GET"]),
        Route("/guide/{page}", _guide, methods=["GET"]),
    ]


async def _guide(request: Request) -> Response:
    # Links between the pages work from here too: `flows.md` is `flows`.
    is_index = "page" not in request.path_params
    page = request.path_params.get("page", "index").removesuffix(".md")
    path = anyio.Path(DOCS / f"{page}.md")
    if _PAGE.fullmatch(page) is None or not await path.is_file():
        raise HTTPException(404, f"the guide has no page {page[:100]!r}")
    text = await path.read_text("utf-8")
    if "text/html" not in request.headers.get("accept", ""):
        # As text/markdown a browser would save it instead of showing it.
        return PlainTextResponse(text, headers=_VARY)
    body = await anyio.to_thread.run_sync(_rendered, text)
    base = '<base href="guide/">\n' if is_index else ""
    html = _HTML.format(title=page, base=base, index="../guide", body=body)
    return HTMLResponse(html, headers=_VARY)


def _rendered(text: str) -> str:
    """As HTML, with headings that links can name, as GitHub does."""
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", re.sub(r"[^\w\- ]", "", inline.content.lower()).replace(" ", "-"))
    rendered: str = markdown.renderer.render(tokens, markdown.options, {})
    return rendered
