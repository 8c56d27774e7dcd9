"""What a server counts of itself, for operators: one field a counter, each with its sentence.

Made with the store and held by it (`Store.counters`), so that whoever has the store can count:
`store.counters.commits += 1`. A field is added to by one thread only.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


def _says(sentence: str) -> Meta:
    return Meta(description=sentence)


class Counters(msgspec.Struct, kw_only=True, rename="camel"):
    """Since the process began."""

    commits: Annotated[int, _says("Transactions that were carried out.")] = 0
    commit_failures: Annotated[
        int, _says("Transactions that failed: a full disk, an I/O error, a lock that stayed.")
    ] = 0
    read_failures: Annotated[int, _says("Reads that failed.")] = 0
    appends_fenced: Annotated[
        int, _says("Appends refused because another worker had taken the execution.")
    ] = 0
    strays: Annotated[
        int, _says("Executions that were held and not driven, after a write failed: let go of.")
    ] = 0
    loop_stalls: Annotated[
        int, _says("Times that the event loop was blocked for longer than `stall_seconds`.")
    ] = 0
    steps_left_behind: Annotated[
        int, _says("Calls of a step that did not end when they were no longer wanted.")
    ] = 0
    taken_over: Annotated[
        int,
        _says(
            "Executions that ran, taken from workers that had died, or stood still for a lease; "
            "what is suspended is nobody's."
        ),
    ] = 0
    parked: Annotated[
        dict[str, int], _says("Executions taken out of service, by the code of the reason.")
    ] = {}

    def count_parked(self, code: str) -> None:
        self.parked[code] = self.parked.get(code, 0) + 1


def sentences() -> dict[str, str]:
    """What each counter counts, by its name on the wire."""
    schema = msgspec.json.schema(Counters)["$defs"]["Counters"]
    return {name: one["description"] for name, one in schema["properties"].items()}
