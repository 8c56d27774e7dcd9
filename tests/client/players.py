"""How the Python clients play a case."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpx
import msgspec

from dispatch.client import Client, Decision, Outcome, Received, SyncClient
from dispatch.core.errors import DispatchError
from dispatch.core.events import ApprovalStart
from tests.client.cases import Play, Seen, ToolCase

BACKOFF = (0.0,) * 8


async def play_async(play: Play) -> Seen:
    case, witness = play.case, Witness(play)
    async with Client(play.url, backoff=BACKOFF) as client:

        async def on_event(received: Received) -> None:
            if witness.take(received) == case.cancel_at:
                await client.cancel(witness.execution_id)

        try:
            if case.ask == "run":
                outcome = await client.run_with_tools(
                    case.flow,
                    case.inputs,
                    tools={name: partial(_in_a_task, tool) for name, tool in witness.tools.items()},
                    on_approval=witness.decide if case.approvals else None,
                    on_event=on_event,
                )
                return witness.saw(outcome)
            tail = (
                client.dispatch(case.flow, case.inputs)
                if case.ask == "dispatch"
                else client.events(play.execution_id, after=case.after, through=case.through)
            )
            async with tail:
                async for received in tail:
                    await on_event(received)
            return witness.saw(tail.end)
        except DispatchError as exc:
            return witness.saw(exc)


async def _in_a_task(tool: Any, parameters: Any) -> Any:
    return await anyio.to_thread.run_sync(tool, parameters)


async def play_sync(play: Play) -> Seen:
    return await anyio.to_thread.run_sync(_play_sync, play)


def _play_sync(play: Play) -> Seen:
    case, witness = play.case, Witness(play)
    with SyncClient(play.url, backoff=BACKOFF) as client:

        def on_event(received: Received) -> None:
            if witness.take(received) == case.cancel_at:
                client.cancel(witness.execution_id)

        try:
            if case.ask == "run":
                outcome = client.run_with_tools(
                    case.flow,
                    case.inputs,
                    tools=witness.tools,
                    on_approval=witness.decide if case.approvals else None,
                    on_event=on_event,
                )
                return witness.saw(outcome)
            tail = (
                client.dispatch(case.flow, case.inputs)
                if case.ask == "dispatch"
                else client.events(play.execution_id, after=case.after, through=case.through)
            )
            with tail:
                for received in tail:
                    on_event(received)
            return witness.saw(tail.end)
        except DispatchError as exc:
            return witness.saw(exc)


class Witness:
    """Answers as the case says, and remembers what was seen."""

    def __init__(self, play: Play):
        self.execution_id = play.execution_id
        self._direct, self._case = play.direct, play.case
        self._events: list[Any] = []
        self._runs: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self.tools = {
            name: partial(self._run, name, tool) for name, tool in play.case.tools.items()
        }

    def take(self, received: Received) -> int:
        event = msgspec.json.decode(received.json)
        self.execution_id = event["executionId"]
        self._events.append(event)
        return received.seq

    def decide(self, approval: ApprovalStart) -> Decision | bool | None:
        self._asked[approval.tool_name] += 1
        decision = self._case.approvals[approval.tool_name]
        if isinstance(decision, dict):
            reason, remember = decision.get("reason"), decision.get("remember", False)
            return Decision(decision["isApproved"], reason, remember)
        return None if decision is None else bool(decision)

    def saw(self, came_to: Outcome | DispatchError | Any) -> Seen:
        seen = Seen(events=self._events, runs=dict(self._runs), asked=dict(self._asked))
        match came_to:
            case Outcome(status=status, text=text, result=result, error=error, code=code):
                return msgspec.structs.replace(
                    seen,
                    status=status,
                    text=text,
                    result=result,
                    error=error,
                    code=code,
                    open=[str(call.tool_name) for call in came_to.open],
                )
            case DispatchError():
                return msgspec.structs.replace(seen, raises=came_to.code)
            case end:
                return msgspec.structs.replace(seen, end=end)

    def _run(self, name: str, tool: ToolCase, parameters: Any) -> Any:
        self._runs[name] += 1
        if tool.beaten is not None:
            body = {"executionId": self.execution_id, "toolOutputs": {name: tool.beaten}}
            httpx.post(f"{self._direct}/v1/dispatch/resume", json=body).raise_for_status()
        if tool.raises is not None:
            raise RuntimeError(tool.raises)
        return parameters[tool.echoes] if tool.echoes is not None else tool.gives
