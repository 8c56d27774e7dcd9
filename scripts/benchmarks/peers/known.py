"""The peers: what is installed, how they are started and asked, and how much they can be asked."""

from __future__ import annotations

from typing import NamedTuple

from scripts.benchmarks.peers.clients import Client, Dbos, Dispatch, LangGraph, LlamaAgents


class Peer(NamedTuple):
    """`texts`: streamed by one run, and by each of sixteen: what takes it some seconds."""

    kind: str
    environment: str
    requirements: tuple[str, ...]
    app: str
    arguments: tuple[str, ...]
    client: type[Client]
    texts: tuple[int, int]


#: This server, which is measured beside them as one of `servers.KINDS`.
OURS = Peer("durable", "", (), "", (), Dispatch, (64_000, 4000))

#: uvicorn picks up the last two by itself.
_UVICORN = ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
_DBOS = ("dbos==3.4.0", "starlette==1.10.0", "sse-starlette==3.7.0", *_UVICORN)
_LANGGRAPH = ("langgraph-cli[inmem]==0.4.40", "langgraph-api==0.16.7", "langgraph==1.2.22")

LLAMA_AGENTS = Peer(
    "llama-agents-server 0.8.0",
    "llama-agents",
    ("llama-agents-server==0.8.0", "llama-index-workflows==2.26.1", *_UVICORN),
    "llama_agents",
    (),
    LlamaAgents,
    (1000, 100),
)
PEERS = (
    LLAMA_AGENTS,
    Peer("DBOS 3.4.0, poll 1 s", "dbos", _DBOS, "dbos_transact", ("1",), Dbos, (800, 50)),
    Peer("DBOS 3.4.0, poll 10 ms", "dbos", _DBOS, "dbos_transact", ("0.01",), Dbos, (400, 25)),
    Peer(
        "langgraph dev 0.16.7",
        "langgraph",
        _LANGGRAPH,
        "langgraph_dev",
        (),
        LangGraph,
        (4000, 1000),
    ),
)
