"""Python client: it knows the wire, not the server.

async with Client("http://127.0.0.1:8000") as client:
    async with client.dispatch("weather", {"city": "Oslo"}) as tail:
        async for received in tail:
            print(received.event)
    if tail.end is End.TURN:
        async with client.resume(tail.execution_id, {"get_weather": "rain"}) as tail:
            ...
"""

from dispatch.client.client import Client
from dispatch.client.tail import End, Received, Tail

__all__ = ["Client", "End", "Received", "Tail"]
