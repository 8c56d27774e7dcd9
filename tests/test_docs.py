"""README and guides: what they say is done, what they name is there, what is there they name."""

from __future__ import annotations

import ast
import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import anyio
import httpx
import msgspec
import pytest
from starlette.types import ASGIApp

from dispatch import cli
from dispatch.app import create_app
from dispatch.core.counters import sentences
from dispatch.core.events import TYPES
from dispatch.core.journal import PAYLOADS
from dispatch.core.lifecycle import Status
from dispatch.examples import FLOWS
from dispatch.settings import Settings
from dispatch.yields import step, tool
from tests.child import serving
from tests.docs.pages import (
    GUIDES,
    PAGES,
    README,
    ROOT,
    Block,
    anchors,
    blocks,
    everything,
    links,
    prose,
)
from tests.docs.session import reading
from tests.serving import serve

PACKAGE = ROOT / "dispatch"
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def in_language(language: str) -> list[Any]:
    return [
        pytest.param(block, id=block.where)
        for page in PAGES
        for block in blocks(page)
        if block.language == language
    ]


# --- what is said is done -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(180)
@by_name
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Its commands and programs, in their order; the README kills a server on the way."""
    # Files first: a page may show how a file is served before it shows the file.
    for block in blocks(page):
        if block.name is not None:
            (tmp_path / block.name).write_text(block.text)
    with reading(tmp_path) as session:
        for block in blocks(page):
            if block.language == "bash":
                session.do(block)
            elif block.text.startswith("event: execution_start\n"):
                session.check(block)
            elif block.language == "python" and block.name and _calls_a_server(block):
                session.run_python(tmp_path / block.name)


def _calls_a_server(block: Block) -> bool:
    return "http://" in block.text and "@flow" not in block.text


def test_the_readme_kills_the_server_in_the_middle() -> None:
    told = "".join(block.text for block in blocks(README) if block.language == "bash")
    order = ["scripts/serve", "/v1/dispatch ", "kill -9", "scripts/serve", "/v1/dispatch/resume"]
    assert re.search(".*".join(map(re.escape, order)), told, re.DOTALL)


def flow_files() -> list[Block]:
    return [
        block
        for page in PAGES
        for block in blocks(page)
        if block.language == "python" and "@flow(" in block.text
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_flow_that_is_shown_comes_to_a_good_end(tmp_path: Path) -> None:
    """Loaded by a real server, answered by a caller who has an answer to everything."""
    files = []
    for block in flow_files():
        assert block.name is not None, f"{block.where}: a flow is a file, whose name comes first"
        (tmp_path / block.name).write_text(block.text)
        files.append(tmp_path / block.name)
    ended = {}
    with (
        serving(tmp_path / "dispatch.db", *files) as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
    ):
        for shown in http.get("/v1/flows").json()["flows"]:
            target = {"id": shown["id"], "version": shown["version"]}
            ended[shown["id"], shown["version"]] = _carry(http, target)["status"]
        log = server.log.read_text().splitlines()
        warned = [line for line in log if "WARNING dispatch.flow" in line]
        assert {"late.py:" in line for line in warned} == {True}  # which shows a mistake
    assert set(ended.values()) == {"completed"}, ended
    assert len(ended) >= len(files)


def _carry(http: httpx.Client, target: dict[str, Any]) -> dict[str, Any]:
    said = [{"role": "user", "content": "Hello"}]
    done = _post(http, "", {"flow": target, "messages": said, "options": {"streamResponse": False}})
    while done["status"] == "paused":
        reason, more = done["pausedReason"], {"executionId": done["executionId"]}
        more["streamResponse"] = False
        if "approvalId" in reason:
            decision = {"approvalId": reason["approvalId"], "decision": "approved"}
            done = _post(http, "/approve", more | decision)
        else:
            done = _post(http, "/resume", more | {"toolOutputs": {reason["toolId"]: "x"}})
    return done


def _post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(f"/v1/dispatch{path}", json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("block", in_language("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.where, "exec")


@pytest.mark.parametrize("block", in_language("json"))
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_every_block_is_of_a_language_that_is_looked_at() -> None:
    found = {block.language for page in PAGES for block in blocks(page)}
    assert found == {"bash", "html", "js", "json", "python", "text"}  # js, html: tests/browser


def test_the_first_flow_is_the_example() -> None:
    [shown] = [block for block in blocks(README) if block.name == "weather.py"]
    assert shown.text.partition("\n")[2] == (PACKAGE / "examples" / "weather.py").read_text()


def test_the_agent_has_30_lines() -> None:
    [shown] = [block for block in blocks(README) if block.name == "agent.py"]
    assert len(shown.text.splitlines()) <= 30


def test_an_application_that_is_shown_serves_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks(PACKAGE / "docs" / "operating.md"):
        if block.name is not None:
            (tmp_path / block.name).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = runpy.run_path("my_app.py")
    anyio.run(_say_hello, names["app"])
    assert (tmp_path / "app.db").is_file()


async def _say_hello(app: ASGIApp) -> None:
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/flows/v1/dispatch", json={"flow": {"id": "hello"}})
        assert '"delta":"Hello."' in answer.text
        assert answer.headers["location"].startswith("/flows/v1/executions/")


# --- what is named is there -----------------------------------------------------------------------


@by_name
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target), link


def _named_tests() -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py::\w+)`", README.read_text())


@pytest.mark.parametrize("name", _named_tests())
def test_the_test_that_shows_a_promise_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    found = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert test in found


def test_ten_promises_have_tests() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (`tests.*`) \|$", README.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 11))


async def test_the_server_has_the_guides(tmp_path: Path) -> None:
    app = create_app(FLOWS, tmp_path / "guides.db")
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        index = await http.get("/guide")
        assert index.status_code == 200
        for page in GUIDES:
            name = page.stem
            answer = await http.get(f"/guide/{name}")
            assert answer.headers["content-type"].startswith("text/plain")
            assert answer.text.startswith("# ")
            assert name == "index" or f"/guide/{name}" in index.text
        for missing in ("nothing", "..%2FREADME", "flows%2F..%2Fflows"):
            assert (await http.get(f"/guide/{missing}")).status_code == 404
        # An error leads to its place in there.
        refused = (await http.post("/v1/dispatch", json={"flow": {"id": "nowhere"}})).json()
        page_of_it, _, anchor = refused["guide"].partition("#")
        assert f'<a id="{anchor}"></a>' in (await http.get(page_of_it)).text


async def test_a_browser_comes_from_the_address_to_every_page_and_every_place(
    tmp_path: Path,
) -> None:
    app = create_app(FLOWS, tmp_path / "guides.db")
    async with serve(app) as url, httpx.AsyncClient(headers={"Accept": "text/html"}) as http:
        pages: dict[str, str] = {}
        links = {f"{url}/"}
        while new := {link.partition("#")[0] for link in links} - pages.keys():
            for page in new:
                answer = await http.get(page)
                assert answer.status_code == 200, page
                html = answer.headers["content-type"].startswith("text/html")
                pages[page] = answer.text if html else ""
                base = re.search('<base href="(.*?)">', pages[page])
                place = urljoin(page, base[1] if base else "")
                found = re.findall('<a href="(.*?)"', pages[page])
                links |= {link for one in found if (link := urljoin(place, one)).startswith(url)}
        for link in links:
            page, _, anchor = link.partition("#")
            assert not anchor or f'id="{anchor}"' in pages[page], link
    assert {f"{url}/guide/{page.name}" for page in GUIDES} - {f"{url}/guide/index.md"} <= set(pages)
    assert f"{url}/examples/module" in pages


# --- what is there is named -----------------------------------------------------------------------


_CODE = re.compile(r"[a-z]+(-[a-z]+)*|[A-Z]+(_[A-Z]+)+")


@cache
def _codes() -> frozenset[str]:
    """Every error code that the package can give, wherever it is written."""
    return frozenset(_written())


def _written() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg="code", value=value):
                    yield from _strings(value)
                case ast.AnnAssign(target=ast.Name(id="code"), value=ast.expr() as value):
                    yield from _strings(value)
                case ast.Assign(
                    targets=[ast.Name(id="code" | "_HTTP_CODES" | "IMPORTED")], value=value
                ):
                    yield from _strings(value)
                case ast.Call(func=ast.Attribute(attr="park" | "fail"), args=[_, code, *_]):
                    yield from _strings(code)
                case ast.Call(args=[ast.Attribute(attr="park" | "fail"), _, code, *_]):
                    yield from _strings(code)
                case ast.Call(func=ast.Name(id="Outcome"), args=[_, code, *_]):
                    yield from _strings(code)
                case _:
                    pass


def _strings(node: ast.expr) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and _CODE.fullmatch(str(inner.value)):
            yield str(inner.value)


def test_the_codes_are_found() -> None:
    """The search itself: one of each way that a code is written."""
    written = {"await-settled", "divergence", "not-found", "crash-loop", "scope-across-yield"}
    assert written | {"step-failed", "version-missing", "internal", "cancelled"} <= _codes()


@pytest.mark.parametrize("code", sorted(_codes()))
def test_every_error_code_has_its_place(code: str) -> None:
    page = PACKAGE / "docs" / "errors.md"
    assert code in anchors(page)
    assert f"`{code}`" in prose(page)


def test_no_error_code_is_described_that_there_is_not() -> None:
    described = set(re.findall(r'<a id="([^"]+)"></a>', prose(PACKAGE / "docs" / "errors.md")))
    assert described == _codes()


@pytest.mark.parametrize("field", msgspec.structs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_described_with_its_default(field: msgspec.structs.FieldInfo) -> None:
    rows = re.findall(
        rf"^\| `{field.name}` \| ([^|]+) \|", prose(PACKAGE / "docs" / "operating.md"), re.MULTILINE
    )
    assert len(rows) == 1
    mebibytes = f"{field.default // 2**20} MiB" if field.name.endswith("_bytes") else None
    plain = "none" if field.default in (None, ()) else f"`{field.default}`"
    assert rows[0] == (mebibytes or plain)


@pytest.mark.parametrize("name", sentences())
def test_every_counter_is_described(name: str) -> None:
    assert f"| `{name}` |" in prose(PACKAGE / "docs" / "operating.md")


def test_every_option_of_serve_is_described() -> None:
    operating = prose(PACKAGE / "docs" / "operating.md")
    parameters = [name for name in cli.serve.__annotations__ if name not in ("sources", "return")]
    for name in parameters:
        assert f"`--{name.replace('_', '-')}`" in operating


@pytest.mark.parametrize("command", [name for name in cli.app if not name.startswith("-")])
def test_every_command_is_described(command: str) -> None:
    assert f"`dispatch {command}" in prose(PACKAGE / "docs" / "operating.md")


@pytest.mark.parametrize("name", [*TYPES, *PAYLOADS.values()])
def test_every_event_type_is_described(name: str) -> None:
    assert f"`{name}`" in prose(PACKAGE / "docs" / "http.md")


def test_every_path_is_described(tmp_path: Path) -> None:
    app = create_app(FLOWS, tmp_path / "routes.db")
    page = prose(PACKAGE / "docs" / "http.md")
    for route in app.routes:
        path = str(getattr(route, "path", "")).replace("{agent_id}", "{any}")
        assert re.search(rf"`(?:GET |POST )?{re.escape(path)}[`?]", page), path


def test_every_option_of_steps_and_tools_is_described() -> None:
    page = (PACKAGE / "docs" / "flows.md").read_text()
    options = {"retries", "backoff", "timeout", "private", "returns", "raw", "reason", "settle"}
    assert {option for option in options if f"{option}=" not in page} == set()
    assert options <= {*_options(step), *_options(tool), "reason", "settle"}


def _options(function: Any) -> set[str]:
    names = set(function.__kwdefaults__ or ())
    return names | {"retries", "backoff"} if function is step else names


def test_every_public_name_is_described() -> None:
    import dispatch

    told = everything()
    assert {name for name in dispatch.__all__ if not re.search(rf"\b{name}\b", told)} == set()


def test_every_status_is_described() -> None:
    told = everything()
    assert {one for one in Status if f"`{one}`" not in told} <= {"pending", "running", "suspended"}


def test_what_the_readme_says_it_depends_on_is_what_it_depends_on() -> None:
    rows = re.findall(r"^\|[^|]*\| ([a-z, -]+) \| [^|]+ \|$", README.read_text(), re.MULTILINE)
    named = {name.strip() for row in rows for name in row.split(",")} - {
        "library",
        "promise",
        "---",
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert named - {"library", "promise", "---"} == set(project["dependencies"])
