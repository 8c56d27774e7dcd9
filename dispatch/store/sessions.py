"""Client tokens and the sessions that begin with one, in the tables beside the journals.

What a page is given is a token that anybody can read in its source: it says which flow may be
started, and from which origins. A session's id is a secret of one visitor. Neither is kept, only
their digests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from dispatch.core.journal import ClientTool

R = TypeVar("R")

#: Origins of a token that may be used from any page.
ANYWHERE = "*"


class ClientToken(msgspec.Struct, frozen=True, kw_only=True):
    """`flow` may be started with it by pages from `origins`; for good unless it is revoked."""

    id: str
    digest: str
    flow: str
    origins: tuple[str, ...]
    created_at: float
    revoked_at: float | None = None


class ClientSession(msgspec.Struct, frozen=True, kw_only=True):
    """A visitor of a page. `tools` are those that the page declared last, under `fingerprint`."""

    digest: str
    token_id: str
    conversation_id: str
    expires_at: float
    tools: tuple[ClientTool, ...] = ()
    fingerprint: str | None = None


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What a visitor thinks of an answer; `body` is JSON, as it came."""

    id: str
    at: float
    token_id: str
    conversation_id: str
    body: str


class Sessions(Protocol):
    """All methods raise `Unavailable` when the store cannot work."""

    async def add_token(self, token: ClientToken) -> None: ...

    async def tokens(self) -> list[ClientToken]:
        """All there ever were, oldest first."""
        ...

    async def token(self, digest: str) -> ClientToken | None: ...

    async def revoke_token(self, id: str, at: float) -> bool:
        """Whether there was such a token that could be used until now."""
        ...

    async def put_session(self, session: ClientSession, now: float) -> None:
        """Add it, or change it, and forget those that have expired."""
        ...

    async def session(self, digest: str) -> tuple[ClientSession, ClientToken] | None: ...

    async def put_feedback(self, feedback: Feedback) -> None:
        """Add it, or put it in place of the one of that id."""
        ...


_ISSUED = "id, digest, flow, origins, created_at, revoked_at"
_SESSION = "digest, token_id, conversation_id, expires_at, tools, fingerprint"

Submit = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]
Select = Callable[..., Awaitable[Iterable[Any]]]


class SqliteSessions:
    """`submit` runs a write in a transaction of the store's, `select` reads rows."""

    def __init__(self, submit: Submit, select: Select):
        self._submit, self._select = submit, select

    async def add_token(self, token: ClientToken) -> None:
        values = (
            token.id,
            token.digest,
            token.flow,
            msgspec.json.encode(token.origins).decode(),
            token.created_at,
            token.revoked_at,
        )
        await self._submit(
            lambda db: db.execute("INSERT INTO client_tokens VALUES (?, ?, ?, ?, ?, ?)", values)
        )

    async def tokens(self) -> list[ClientToken]:
        found = await self._select(f"SELECT {_ISSUED} FROM client_tokens ORDER BY created_at, id")  # noqa: S608 - column lists
        return [_to_token(row) for row in found]

    async def token(self, digest: str) -> ClientToken | None:
        for row in await self._select(
            f"SELECT {_ISSUED} FROM client_tokens WHERE digest = ?",  # noqa: S608 - column lists
            digest,
        ):
            return _to_token(row)
        return None

    async def revoke_token(self, id: str, at: float) -> bool:
        statement = "UPDATE client_tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
        changed: int = await self._submit(lambda db: db.execute(statement, (at, id)).rowcount)
        return changed == 1

    async def put_session(self, session: ClientSession, now: float) -> None:
        values = (
            session.digest,
            session.token_id,
            session.conversation_id,
            session.expires_at,
            msgspec.json.encode(session.tools).decode(),
            session.fingerprint,
        )

        def put(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO client_sessions VALUES (?, ?, ?, ?, ?, ?)", values)
            db.execute("DELETE FROM client_sessions WHERE expires_at < ?", (now,))

        await self._submit(put)

    async def session(self, digest: str) -> tuple[ClientSession, ClientToken] | None:
        for row in await self._select(
            f"SELECT {_SESSION} FROM client_sessions WHERE digest = ?",  # noqa: S608 - column lists
            digest,
        ):
            session = _to_session(row)
            for token in await self._select(
                f"SELECT {_ISSUED} FROM client_tokens WHERE id = ?",  # noqa: S608 - column lists
                session.token_id,
            ):
                return session, _to_token(token)
        return None

    async def put_feedback(self, feedback: Feedback) -> None:
        values = (
            feedback.id,
            feedback.at,
            feedback.token_id,
            feedback.conversation_id,
            feedback.body,
        )
        await self._submit(
            lambda db: db.execute(
                "INSERT OR REPLACE INTO client_feedback VALUES (?, ?, ?, ?, ?)", values
            )
        )


def _to_token(row: Any) -> ClientToken:
    return ClientToken(
        id=row[0],
        digest=row[1],
        flow=row[2],
        origins=msgspec.json.decode(row[3], type=tuple[str, ...]),
        created_at=row[4],
        revoked_at=row[5],
    )


def _to_session(row: Any) -> ClientSession:
    return ClientSession(
        digest=row[0],
        token_id=row[1],
        conversation_id=row[2],
        expires_at=row[3],
        tools=msgspec.json.decode(row[4], type=tuple[ClientTool, ...]),
        fingerprint=row[5],
    )
