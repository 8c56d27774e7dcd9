"""Python client: it knows the wire, not the server.

async with Client("http://127.0.0.1:8000") as client:
    async with client.dispatch("weather", {"city": "Oslo"}) as tail:
        async for received in tail:
            print(received.event)
    if tail.end is End.TURN:
        async with client.resume(tail.execution_id, {"get_weather": "rain"}) as tail:
            ...

`run_with_tools` does the latter by itself. `SyncClient` is the same without `async`. What has to be
asked (`commands`), when to come back (`tail`) and what to answer (`answering`) is decided without
I/O, once; `client` and `sync` are the two ways to do it.
"""

from dispatch.client.answering import Decision, Outcome
from dispatch.client.client import Client, Tail
from dispatch.client.sync import SyncClient, SyncTail
from dispatch.client.tail import End, Received

__all__ = ["Client", "Decision", "End", "Outcome", "Received", "SyncClient", "SyncTail", "Tail"]
