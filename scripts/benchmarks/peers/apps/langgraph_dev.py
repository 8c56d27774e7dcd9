"""The langgraph dev server, `langgraph dev`: a graph that asks, and one that streams.

It keeps its threads in memory, and writes them to files every ten seconds.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from scripts.benchmarks.peers.apps.child import Child

#: As many as there are clients; ten as it comes.
JOBS = 32


class Asked(TypedDict, total=False):
    city: str
    report: str


class Wanted(TypedDict, total=False):
    count: int
    size: int


def ask(state: Asked) -> Asked:
    get_stream_writer()(f"Looking up the weather in {state['city']}. ")
    report = interrupt({"city": state["city"]})
    get_stream_writer()(f"It is {report}.")
    return {"report": report}


async def stream(state: Wanted) -> Wanted:
    write, token = get_stream_writer(), "x" * state["size"]
    for _ in range(state["count"]):
        write(token)
    return {}


weather = StateGraph(Asked).add_node(ask).add_edge(START, "ask").add_edge("ask", END).compile()
tokens = (
    StateGraph(Wanted).add_node(stream).add_edge(START, "stream").add_edge("stream", END).compile()
)


def main() -> None:
    child = Child()
    folder = child.db.parent
    graphs = {name: f"{Path(__file__).resolve()}:{name}" for name in ("weather", "tokens")}
    config = folder / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    # It says neither what it runs nor that there is a newer version.
    os.environ |= {
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "LANGSMITH_TRACING": "false",
        "PYTHONPATH": os.getcwd(),
    }
    os.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threading.Thread(target=_tell, args=(child, port), daemon=True).start()

    from langgraph_cli.cli import cli

    options = f"--port {port} --n-jobs-per-worker {JOBS} --server-log-level WARNING"
    cli(["dev", "--no-browser", "--no-reload", "--config", str(config), *options.split()])


def _tell(child: Child, port: int) -> None:
    """As soon as it answers."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ok"):
                return child.tell(port)
        except urllib.error.URLError:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
