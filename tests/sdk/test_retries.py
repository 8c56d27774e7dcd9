"""What the generated client does by itself (wire 5.2): it posts again, and nothing happens twice.

It waits a second before, so all of its reasons to do so are met at once.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync
from runtype import AsyncRuntypeClient, RuntypeClient
from runtype._generated.errors.conflict_error import ConflictError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatch.app import create_app
from dispatch.examples import FLOWS
from tests.sdk.clients import AsyncOverlay, flow, types_of
from tests.serving import serve

pytestmark = pytest.mark.slow


class Losing:
    """The first resume of each client is carried out, but its answer breaks off behind its headers.

    Clients are told apart by `x-client`; those without one lose nothing.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self.resumes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Headers(scope=scope).get("x-client") if scope["type"] == "http" else None
        if client is None:
            await self._app(scope, receive, send)
            return
        is_lost = client not in self.resumes
        self.resumes.append(client)

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start" or not is_lost:
                await send(message)

        await self._app(scope, receive, without_body)


async def test_a_resume_whose_answer_got_lost_is_sent_again_and_applied_once(
    tmp_path: Path,
) -> None:
    losing = Losing(create_app(FLOWS, tmp_path / "losing.db"))
    async with serve(losing) as url:
        overlay = AsyncOverlay(url)
        waiting = [await overlay.document(flow("weather")) for _ in range(3)]
        sync, asynchronous, late = (document["executionId"] for document in waiting)
        await overlay.resume(late, {"get_weather": "dry"})

        def resume_sync() -> None:
            with RuntypeClient(base_url=url, headers={"x-client": "sync"}) as client:
                resume = client.api.dispatch.resume_a_paused_execution
                done = resume(execution_id=sync, tool_outputs={"get_weather": "wet"})
                assert done.status == "completed"

        async def resume_async() -> None:
            headers = {"x-client": "async"}
            async with AsyncRuntypeClient(base_url=url, headers=headers) as client:
                resume = client.api.dispatch.resume_a_paused_execution
                done = await resume(execution_id=asynchronous, tool_outputs={"get_weather": "wet"})
                assert done.status == "completed"

        async def resume_late() -> None:
            """With what another has answered by then: asking again makes it no success."""
            headers = {"x-client": "late"}
            async with AsyncRuntypeClient(base_url=url, headers=headers) as client:
                resume = client.api.dispatch.resume_a_paused_execution
                with pytest.raises(ConflictError) as refused:
                    await resume(
                        execution_id=late,
                        tool_outputs={"get_weather": "wet"},
                        request_options={"max_retries": 1},
                    )
                assert refused.value.body["code"] == "await-settled"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_sync, resume_sync)
            tasks.start_soon(resume_async)
            tasks.start_soon(resume_late)
        assert sorted(losing.resumes) == ["async", "async", "late", "late", "sync", "sync"]
        for id in (sync, asynchronous, late):
            journal = await overlay.get(f"/executions/{id}/journal")
            told = [row["payload"] for row in journal["journalEvents"]]
            assert types_of(told).count("tool_complete") == 1
            assert types_of(told)[-1] == "execution_complete"
        await overlay.close()
