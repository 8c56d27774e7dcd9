"""A flow that does all that a reader in haste could take for a mistake, and makes none."""

from __future__ import annotations

import base64
import collections
import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import re
import time
import urllib.parse
import zoneinfo
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4, uuid5

import anyio
import anyio.lowlevel
import attrs
import httpx
import jsonschema
import msgspec
import pydantic

from dispatch import Cancelled, Flow, Run, flow, gather, result, sleep, step, tool

logger = logging.getLogger(__name__)

RATES = {"NOK": Decimal("0.08")}
STARTED_AT = datetime.now(UTC)  # once, when the module is imported
HANDLERS: dict[str, Callable[[], str]] = {}


def handler(fn: Callable[[], str]) -> Callable[[], str]:
    """Fills a table of the module, while it is imported."""
    HANDLERS[fn.__name__] = fn
    return fn


@handler
def hello() -> str:
    return "hello"


class Note(msgspec.Struct):
    text: str
    tags: list[str] = []


@dataclasses.dataclass
class Order:
    id: str
    at: datetime
    lines: list[str] = dataclasses.field(default_factory=list)
    key: UUID = dataclasses.field(default_factory=uuid4)


class Page(pydantic.BaseModel):
    number: int = 1


@attrs.define
class Place:
    city: str
    tags: list[str] = attrs.field(factory=list)


_client: httpx.Client | None = None


def client() -> httpx.Client:
    """Of this process, made on first use."""
    global _client
    if _client is None:
        _client = httpx.Client()
    return _client


@functools.cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def stamp(at: datetime | None = None, zone: Any = None) -> str:
    """Asks the clock only if it isn't told."""
    if at is None:
        at = datetime.now(UTC)
    zone = zone or datetime.now(UTC).tzinfo
    return at.astimezone(zone).isoformat()


@contextmanager
def timed() -> Iterator[None]:
    """How long it takes in this process: for the log alone."""
    try:
        yield
    finally:
        logger.info("left at %s", time.time())


async def helper(names: list[str]) -> AsyncGenerator[Any, Any]:
    seen: dict[str, int] = {}
    for name in sorted(set(names)):
        seen[name] = len(seen)
        yield tool(name, {"at": seen[name]})
    yield result(seen)


@step
async def fetch(url: str) -> str:
    """A step may do anything."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(url)
    with anyio.fail_after(5):
        await anyio.lowlevel.checkpoint()
    return f"{answer.text} {datetime.now(UTC)} {uuid4()} {await anyio.Path('x').read_text()}"


@step
def count_words() -> int:
    return len(Path("words.txt").read_text().split())


@flow("harmless")
async def harmless(run: Run[dict[str, str]]) -> Flow:
    """All of this is the same on a replay, or seen by nobody."""
    logger.info("began at %s", time.time())
    day = run.now + timedelta(days=1)
    clock = datetime.fromtimestamp(0, UTC).astimezone(zoneinfo.ZoneInfo("UTC"))
    texts = [
        day.isoformat(),
        clock.strftime("%Y"),
        str(STARTED_AT),
        datetime(2020, 1, 1, tzinfo=UTC),
    ]
    texts.append(stamp(run.now, zone=UTC))
    name = re.sub(r"\W", "", json.loads(json.dumps({"name": run.inputs["name"]}))["name"])
    note = msgspec.convert({"text": name}, Note)
    note.tags.append("new")
    order = dataclasses.replace(Order(name, at=run.now, key=UUID(run.uuid())), lines=[note.text])
    page = Page(number=2).model_copy()
    page.number = Page.model_validate_json(page.model_dump_json()).number
    place = attrs.evolve(Place("Oslo"), city="Lima")
    jsonschema.validate({}, {"type": "object"})
    counted = collections.Counter(copy.deepcopy(order.lines)).most_common(1)
    total = RATES["NOK"] * math.floor(fibonacci(10)) + sum(len(word) for word in {"a", "bc"})
    keys = [hashlib.sha256(name.encode()).hexdigest(), base64.b64encode(b"x").decode()]
    keys += [str(uuid5(order.key, name)), urllib.parse.quote(name), Path("a", name).suffix]
    dice = Random(7)
    drawn = [dice.random(), run.random.choice(keys), next(itertools.count())]
    url = httpx.URL("http://example.org").copy_with(path=HANDLERS["hello"]())
    header = httpx.Headers({"accept": "text"}).get("accept")
    http = client()
    with suppress(ValueError), timed():
        yield f"{texts} {counted} {total} {drawn} {header} {place} {page}"
        yield helper(keys)
    async with httpx.AsyncClient() as mine, AsyncExitStack() as stack:
        await_nothing = stack.callback(logger.info, "left")
        del await_nothing
        async with aclosing(mine):
            fetched, words = yield gather(fetch(str(url)), count_words())
    try:
        yield sleep(1)
        yield step(time.sleep, 0)
        yield step(lambda: time.time())
    except Cancelled:
        yield fetch("http://example.org/undo")
    finally:
        await mine.aclose()
        http.close()
    yield result([fetched, words])
