"""The commonest ways to write a flow that doesn't survive a restart, and who catches each.

`registered`: reading the flow finds it when it is registered. `replayed`: a replay right after it
has suspended, as `--dev` does, comes to something else. A file may stand for a helper of the
author's, or, under `site-packages`, for a library.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """`body` is the flow's; the line that the warning names ends in `# here`. What neither sees has
    its words in the guide, `told`.
    """

    mistake: str
    variant: str
    imports: str
    body: str
    files: dict[str, str]
    registered: bool
    replayed: bool
    told: str = ""

    @property
    def id(self) -> str:
        return f"{self.mistake}, {self.variant}".replace(" ", "-")

    @property
    def text(self) -> str:
        body = "\n".join(f"    {line}" for line in self.body.strip().splitlines())
        return f"{self.imports.strip()}\n{_ALWAYS}{body}\n"


_ALWAYS = """
from typing import Any
from dispatch import Cancelled, Flow, Run, flow, gather, result, step, tool

@flow("case")
async def case(run: Run[Any]) -> Flow:
"""

#: What each says to write instead.
REMEDIES = {
    "model call": "put it into a @step and yield that",
    "clock": "write `run.now`",
    "chance": "write `run.random` or `run.uuid()`",
    "global state": "`run.state`",
    "file": "put it into a @step and yield that",
    "scope across a yield": "write `timeout=` at the wait, or `race` it with `sleep`",
    "clean-up": "put what must be undone into a @step under `except Cancelled`",
}

#: Stands for a service: another answer each time.
MODEL = """
import itertools, httpx
answers = itertools.count()
def answer(request):
    return httpx.Response(200, text=f"answer {next(answers)}")
transport = httpx.MockTransport(answer)
client = httpx.Client(transport=transport)
aclient = httpx.AsyncClient(transport=transport)
"""
LIBRARY = "site-packages/library.py"

CASES = [
    # --- a model, or another service, asked in the body -------------------------------------------
    Case(
        "model call",
        "direct",
        "from model import client",
        """
said = client.post("http://model").text  # here
yield tool("ask", {"said": said})
""",
        {"model.py": MODEL},
        registered=True,
        replayed=True,
    ),
    Case(
        "model call",
        "awaited",
        "from model import aclient",
        """
said = (await aclient.post("http://model")).text  # here
yield tool("ask", {"said": said})
""",
        {"model.py": MODEL},
        registered=True,
        replayed=True,
    ),
    Case(
        "model call",
        "aliased",
        "from model import transport as t\nfrom httpx import Client as Model",
        """
with Model(transport=t) as m:
    said = m.post("http://model").text  # here
yield tool("ask", {"said": said})
""",
        {"model.py": MODEL},
        registered=True,
        replayed=True,
    ),
    Case(
        "model call",
        "helper",
        "import helpers",
        """
said = helpers.ask()  # here
yield tool("ask", {"said": said})
""",
        {
            "model.py": MODEL,
            "helpers.py": "import model\ndef ask():\n    return model.client.get('http://model').text",
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "model call",
        "library",
        "from library import complete",
        """
yield tool("ask", {"said": complete("x")})  # here
""",
        {
            "model.py": MODEL,
            LIBRARY: f"{MODEL}\ndef complete(x):\n    return client.get('http://m').text",
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "model call",
        "hidden",
        "from model import client",
        """
said = {"ask": client.post}["ask"]("http://model").text
yield tool("ask", {"said": said})
""",
        {"model.py": MODEL},
        registered=False,
        replayed=True,
    ),
    Case(
        "model call",
        "streamed",
        "import model",
        """
async def words():
    async with model.aclient.stream("GET", "http://model") as answer:
        async for piece in answer.aiter_text():
            yield piece
said = ""
async for word in words():  # here
    said += word
yield tool("ask", {"said": said})
""",
        {"model.py": MODEL},
        registered=True,
        replayed=True,
        told="a streaming @step",
    ),
    # --- the clock --------------------------------------------------------------------------------
    Case(
        "clock",
        "direct",
        "import datetime",
        """
yield tool("ask", {"at": datetime.datetime.now().isoformat()})  # here
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "aliased",
        "from time import time_ns as t\nnow = t",
        """
yield tool("ask", {"at": now()})  # here
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "helper",
        "from helpers import Stamps",
        """
stamps = Stamps()
yield tool("ask", {"at": stamps.next()})  # here
""",
        {
            "helpers.py": "from datetime import datetime as d\n"
            "class Stamps:\n    def next(self):\n        return d.now().isoformat()"
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "helper that yields",
        "from helpers import look",
        """
yield look()  # here
""",
        {
            "helpers.py": "import time\nfrom dispatch import tool\n"
            "async def look():\n    yield tool('ask', {'at': time.perf_counter_ns()})"
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "library",
        "import library as l",
        """
yield tool("ask", {"at": l.stamp()})  # here
""",
        {
            LIBRARY: "import time\ndef stamp():\n    return _stamp()\n"
            "def _stamp():\n    return time.time_ns()"
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "default of an argument",
        "from helpers import stamp",
        """
yield tool("ask", {"at": stamp()})  # here
""",
        {
            "helpers.py": "from time import time_ns\ndef stamp(at=None):\n"
            "    if at is None:\n        at = time_ns()\n    return at"
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "default of a field",
        "import dataclasses, time\n@dataclasses.dataclass\nclass Note:\n    text: str\n"
        "    at: int = dataclasses.field(default_factory=time.time_ns)",
        """
yield tool("ask", {"at": Note("x").at})  # here
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "imported by name",
        "import importlib",
        """
yield tool("ask", {"at": importlib.import_module("time").time_ns()})  # here
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "clock",
        "hidden",
        "import time",
        """
yield tool("ask", {"at": getattr(time, "time" + "_ns")()})
""",
        {},
        registered=False,
        replayed=True,
    ),
    Case(
        "clock",
        "hidden, and not yet another time",
        "import time",
        """
late = getattr(time, "ti" + "me")() > 4e9
yield tool("late" if late else "ask")
""",
        {},
        registered=False,
        replayed=False,
        told="comes to the same for now",
    ),
    # --- chance -----------------------------------------------------------------------------------
    Case(
        "chance",
        "direct",
        "import random",
        """
yield tool("ask", {"n": random.random()})  # here
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "chance",
        "aliased",
        "import random as r",
        """
from uuid import uuid4 as new
draw = r.randbytes
yield tool("ask", {"n": draw(8).hex()})  # here
yield tool("ask", {"id": str(new())})
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "chance",
        "helper",
        "from helpers import draw",
        """
def twice():
    return draw() + draw()
yield tool("ask", {"n": twice()})  # here
""",
        {"helpers.py": "import os\ndef draw():\n    return os.urandom(8).hex()"},
        registered=True,
        replayed=True,
    ),
    Case(
        "chance",
        "library",
        "import library",
        """
yield tool("ask", {"id": library.Id().text})  # here
""",
        {
            LIBRARY: "from uuid import uuid4\nclass Id:\n    def __init__(self):\n"
            "        self.text = str(uuid4())"
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "chance",
        "order of a set",
        "",
        """
for name in {"a", "b", "c"}:  # here
    yield tool(name)
""",
        {},
        registered=True,
        replayed=False,
        told="`sorted(…)`",
    ),
    # --- global state -----------------------------------------------------------------------------
    Case(
        "global state",
        "direct",
        "COUNT = 0",
        """
global COUNT
COUNT += 1  # here
yield tool("ask", {"n": COUNT})
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "global state",
        "aliased",
        "from helpers import SEEN as s",
        """
s.append(1)  # here
yield tool("ask", {"n": len(s)})
""",
        {"helpers.py": "SEEN = []"},
        registered=True,
        replayed=True,
    ),
    Case(
        "global state",
        "helper",
        "from helpers import counter",
        """
yield tool("ask", {"n": counter.next()})  # here
""",
        {
            "helpers.py": "class Counter:\n    n = 0\n    def next(self):\n"
            "        self.n += 1\n        return self.n\ncounter = Counter()"
        },
        registered=True,
        replayed=True,
    ),
    Case(
        "global state",
        "changed by a step",
        "from dispatch import step\nKNOWN = {}\n@step\nasync def learn() -> None:\n"
        "    KNOWN['name'] = 'Ada'",
        """
yield learn()
yield tool("ask", {"name": KNOWN["name"]})  # here
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "global state",
        "library",
        "import library",
        """
yield tool("ask", {"n": library.next_number()})
""",
        {
            LIBRARY: "_last = 0\ndef next_number():\n    global _last\n"
            "    _last += 1\n    return _last"
        },
        registered=False,
        replayed=True,
    ),
    # --- files ------------------------------------------------------------------------------------
    Case(
        "file",
        "direct",
        "",
        """
with open(__file__) as file:  # here
    size = len(file.read())
yield tool("ask", {"size": size})
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "file",
        "aliased",
        "from pathlib import Path as P\nhere = P(__file__)",
        """
yield tool("ask", {"size": len(here.read_text())})  # here
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "file",
        "helper",
        "from helpers import size",
        """
yield tool("ask", {"size": size(__file__)})  # here
""",
        {
            "helpers.py": "import io\ndef size(path):\n"
            "    with io.open(path) as file:\n        return len(file.read())"
        },
        registered=True,
        replayed=False,
    ),
    Case(
        "file",
        "library",
        "import library",
        """
yield tool("ask", {"size": library.load(__file__)})  # here
""",
        {
            LIBRARY: "def load(path):\n    return _read(path)\n"
            "def _read(path):\n    with open(path) as file:\n        return len(file.read())"
        },
        registered=True,
        replayed=False,
    ),
    Case(
        "file",
        "changed meanwhile",
        "from pathlib import Path\nfrom dispatch import step\n"
        "FILE = Path(__file__).parent / 'notes'\n"
        "FILE.write_text('1')\n@step\ndef note() -> None:\n    FILE.write_text('2')",
        """
text = FILE.read_text()  # here
yield note()
yield tool("ask", {"text": text})
""",
        {},
        registered=True,
        replayed=True,
    ),
    Case(
        "file",
        "of a library's own",
        "import library",
        """
yield tool("ask", {"size": library.words()})
""",
        {
            LIBRARY: "def words():\n"
            "    with open(__file__) as file:\n        return len(file.read())"
        },
        registered=False,
        replayed=False,
        told="files of its own",
    ),
    # --- scopes -----------------------------------------------------------------------------------
    Case(
        "scope across a yield",
        "direct",
        "import anyio",
        """
with anyio.CancelScope():  # here
    yield tool("ask")
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "scope across a yield",
        "aliased",
        "from asyncio import TaskGroup as G, timeout as limit",
        """
async with G():  # here
    yield tool("ask")
at_most = limit(60)
async with at_most:
    yield tool("ask")
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "scope across a yield",
        "helper",
        "from helpers import quickly",
        """
async with quickly():  # here
    yield tool("ask")
""",
        {
            "helpers.py": "import anyio\nfrom contextlib import asynccontextmanager as manager\n"
            "@manager\nasync def quickly():\n    with anyio.fail_after(60):\n        yield"
        },
        registered=True,
        replayed=False,
    ),
    Case(
        "scope across a yield",
        "library",
        "import library",
        """
with library.within(60):  # here
    yield tool("ask")
""",
        {
            LIBRARY: "from anyio import move_on_after\nfrom contextlib import contextmanager\n"
            "@contextmanager\ndef within(seconds):\n    with move_on_after(seconds):\n        yield"
        },
        registered=True,
        replayed=False,
    ),
    Case(
        "scope across a yield",
        "exit stack",
        "import anyio\nfrom contextlib import ExitStack",
        """
with ExitStack() as stack:
    stack.enter_context(anyio.move_on_after(60))  # here
    yield tool("ask")
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "scope across a yield",
        "entered by hand",
        "import anyio",
        """
scope = anyio.move_on_after(60)
scope.__enter__()  # here
try:
    yield tool("ask")
finally:
    scope.__exit__(None, None, None)
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "scope across a yield",
        "hidden",
        "from helpers import Limit",
        """
with Limit():
    yield tool("ask")
""",
        {
            "helpers.py": "import anyio\nclass Limit:\n"
            "    def __enter__(self):\n        self.scope = anyio.move_on_after(60)\n"
            "        return self.scope.__enter__()\n"
            "    def __exit__(self, *exc):\n        return self.scope.__exit__(*exc)"
        },
        registered=False,
        replayed=False,
        told="a class of your own that enters one",
    ),
    # --- clean-up ---------------------------------------------------------------------------------
    Case(
        "clean-up",
        "direct",
        "import model",
        """
try:
    yield tool("ask")
finally:
    model.client.post("http://hotel/release")  # here
""",
        {"model.py": MODEL},
        registered=True,
        replayed=False,
    ),
    Case(
        "clean-up",
        "aliased",
        "from model import aclient as hotel",
        """
try:
    yield tool("ask")
except GeneratorExit:
    await hotel.delete("http://hotel/room/12")  # here
    raise
""",
        {"model.py": MODEL},
        registered=True,
        replayed=False,
    ),
    Case(
        "clean-up",
        "helper",
        "from helpers import hold_room",
        """
async with hold_room():  # here
    yield tool("ask")
""",
        {
            "model.py": MODEL,
            "helpers.py": "import model\nfrom contextlib import asynccontextmanager\n"
            "@asynccontextmanager\nasync def hold_room():\n    try:\n        yield\n"
            "    finally:\n        await release()\n"
            "async def release():\n    await model.aclient.post('http://hotel/release')",
        },
        registered=True,
        replayed=False,
    ),
    Case(
        "clean-up",
        "library",
        "import library",
        """
with library.Room():  # here
    yield tool("ask")
""",
        {
            "model.py": MODEL,
            LIBRARY: "from model import client\nclass Room:\n"
            "    def __enter__(self):\n        return self\n"
            "    def __exit__(self, *exc):\n        client.post('http://hotel/release')",
        },
        registered=True,
        replayed=False,
    ),
    Case(
        "clean-up",
        "a step",
        "from dispatch import step\n@step\nasync def release() -> None: ...",
        """
wait = None
try:
    yield tool("ask")
except BaseException:
    wait = release()  # here
    raise
""",
        {},
        registered=True,
        replayed=False,
    ),
    Case(
        "clean-up",
        "hidden",
        "import model",
        """
undo = {"room": model.client.post}
try:
    yield tool("ask")
finally:
    undo["room"]("http://hotel/release")
""",
        {"model.py": MODEL},
        registered=False,
        replayed=False,
        told="behind a table of functions",
    ),
]
