"""Tokens and sessions of pages: the contract of `store.sessions`."""

from __future__ import annotations

import msgspec

from dispatch.core.journal import ClientTool
from dispatch.store.base import Store
from dispatch.store.sessions import ClientSession, ClientToken, Feedback
from tests.store.conftest import StoreMaker
from tests.store.entries import TickingClock

TOKEN = ClientToken(
    id="token_1", digest="d1", flow="weather", origins=("https://a.example",), created_at=5.0
)
SESSION = ClientSession(
    digest="s1",
    token_id="token_1",
    conversation_id="c1",
    expires_at=100.0,
    tools=(ClientTool(name="look", parameters_schema={"type": "object"}, origin="webmcp"),),
    fingerprint="f1",
)


async def test_a_token_is_found_by_its_digest(store: Store) -> None:
    await store.sessions.add_token(TOKEN)
    assert await store.sessions.token("d1") == TOKEN
    assert await store.sessions.token("d2") is None


async def test_tokens_are_listed_oldest_first(store: Store) -> None:
    older = msgspec.structs.replace(TOKEN, id="token_0", digest="d0", created_at=4.0)
    await store.sessions.add_token(TOKEN)
    await store.sessions.add_token(older)
    assert await store.sessions.tokens() == [older, TOKEN]


async def test_a_token_is_revoked_once(store: Store) -> None:
    await store.sessions.add_token(TOKEN)
    assert await store.sessions.revoke_token("token_1", 7.0)
    assert not await store.sessions.revoke_token("token_1", 8.0)
    assert not await store.sessions.revoke_token("token_2", 8.0)
    found = await store.sessions.token("d1")
    assert found is not None
    assert found.revoked_at == 7.0


async def test_a_session_is_found_with_its_token_and_can_be_changed(store: Store) -> None:
    await store.sessions.add_token(TOKEN)
    await store.sessions.put_session(SESSION, 1.0)
    assert await store.sessions.session("s1") == (SESSION, TOKEN)
    changed = msgspec.structs.replace(SESSION, tools=(), fingerprint=None, expires_at=200.0)
    await store.sessions.put_session(changed, 2.0)
    assert await store.sessions.session("s1") == (changed, TOKEN)
    assert await store.sessions.session("s2") is None


async def test_sessions_that_have_expired_are_forgotten(store: Store) -> None:
    await store.sessions.add_token(TOKEN)
    await store.sessions.put_session(SESSION, 1.0)
    other = msgspec.structs.replace(SESSION, digest="s2", expires_at=300.0)
    await store.sessions.put_session(other, 100.5)
    assert await store.sessions.session("s1") is None
    assert await store.sessions.session("s2") is not None


async def test_all_of_it_outlives_the_process(make_store: StoreMaker, clock: TickingClock) -> None:
    store = make_store(clock)
    async with store.session("w1"):
        await store.sessions.add_token(TOKEN)
        await store.sessions.put_session(SESSION, 1.0)
        feedback = Feedback(id="f", at=1.0, token_id="token_1", conversation_id="c1", body="{}")
        for _ in range(2):  # again is instead
            await store.sessions.put_feedback(feedback)
    again = make_store(clock)
    async with again.session("w2"):
        assert await again.sessions.session("s1") == (SESSION, TOKEN)
