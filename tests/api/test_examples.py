"""The pages of `/examples`, without a browser; `tests/browser` has one."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from dispatch.app import create_app
from dispatch.examples import FLOWS
from tests.serving import serve


async def test_every_page_is_reached_from_the_first(tmp_path: Path) -> None:
    app = create_app(FLOWS, tmp_path / "examples.db")
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        index = await http.get("/examples")
        assert index.headers["content-type"].startswith("text/html")
        links = re.findall(r'href="([^"]+)"', index.text)
        assert {link.partition("?")[0] for link in links} == {
            "examples/eventsource",
            "examples/module",
            "examples/persona",
            "guide/http",
        }
        for link in links:
            assert (await http.get(f"/{link}")).status_code == 200
        named = {link.partition("=")[2] for link in links if "=" in link}
        assert named <= {flow.id for flow in FLOWS}
        for missing in ("nothing", "..%2Fapp", "index.html"):
            assert (await http.get(f"/examples/{missing}")).status_code == 404


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "node_modules" / "@runtypelabs" / "persona" / "dist"
    bundle.mkdir(parents=True)
    (bundle / "index.global.js").write_text("hello")
    (bundle.parent / "package.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("installed")
async def test_persona_is_served_from_where_npm_puts_it(tmp_path: Path) -> None:
    app = create_app(FLOWS, tmp_path / "examples.db")
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        script = await http.get("/examples/persona/index.global.js")
        assert script.text == "hello"
        assert script.headers["content-type"].startswith("text/javascript")
        absent = await http.get("/examples/persona/widget.css")
        assert absent.status_code == 404
        assert "npm install @runtypelabs/persona" in absent.json()["error"]
        for other in ("..%2Fpackage.json", "package.json", "%2e%2e/package.json"):
            assert (await http.get(f"/examples/persona/{other}")).status_code == 404
