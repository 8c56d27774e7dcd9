"""The commands for client tokens: what pages without a secret may start, and from where.

They work on the file, beside a server that uses it or without one; a server sees at once what they
change.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from dispatch import loader
from dispatch.api.client_sessions import make_token
from dispatch.api.guard import check_origin
from dispatch.app import WallClock
from dispatch.core.clock import iso
from dispatch.flow import Registry
from dispatch.legs import FAILED, OK
from dispatch.place import Usage, existing, with_store
from dispatch.settings import Settings
from dispatch.store.base import Store
from dispatch.store.sessions import ANYWHERE
from dispatch.terminal import Screen

_DB = Settings().db

token = App(name="token", help="Tokens for pages without a secret: create, list, revoke.")

Db = Annotated[str, Parameter(help="SQLite file of the journals.")]
AsJson = Annotated[
    bool, Parameter(negative=(), show_default=False, help="A JSON document on stdout instead.")
]


class Listed(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    id: str
    flow: str
    origins: tuple[str, ...]
    created_at: str
    revoked_at: str | None = None
    token: str | None = None


@token.command
def create(
    flow: Annotated[str, Parameter(name="FLOW", help="What it may start.")],
    /,
    *sources: Annotated[
        str, Parameter(name="MODULE_OR_FILE", help="Where that flow is, to see that it is there.")
    ],
    origin: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="Where its pages come from; * is anywhere. May be repeated."),
    ],
    db: Db = _DB,
    json: AsJson = False,
) -> int:
    """Make a token, and tell it: this once, for only a digest of it is kept."""
    try:
        origins = [one if one == ANYWHERE else check_origin(one) for one in origin]
    except ValueError as exc:
        raise Usage(str(exc)) from exc
    path = str(existing(db))
    if sources:
        Registry(loader.load(sources)).find(flow)
    text, made = make_token(flow, [one.rstrip("/").lower() for one in origins], WallClock().now())

    async def add(store: Store) -> int:
        await store.sessions.add_token(made)
        screen = Screen(as_json=json)
        if not sources and not await store.executions(flow=flow, limit=1):
            screen.say(
                f"note: {db} has no execution of {flow} yet: is that its name? With MODULE_OR_FILE "
                "this is checked"
            )
        if json:
            listed = Listed(
                id=made.id,
                flow=made.flow,
                origins=made.origins,
                created_at=iso(made.created_at),
                token=text,
            )
            screen.document(listed)
        else:
            screen.line(text)
            screen.say(f"{made.id}: {flow}, for pages from {', '.join(made.origins)}")
        return OK

    return with_store(path, add)


@token.command(name="list")
def list_(*, db: Db = _DB, json: AsJson = False) -> int:
    """List all tokens there ever were."""

    async def show(store: Store) -> int:
        found = [
            Listed(
                id=one.id,
                flow=one.flow,
                origins=one.origins,
                created_at=iso(one.created_at),
                revoked_at=None if one.revoked_at is None else iso(one.revoked_at),
            )
            for one in await store.sessions.tokens()
        ]
        screen = Screen(as_json=json)
        if json:
            screen.document(found)
        else:
            screen.table(
                ("token", "flow", "origins", "created", "revoked"),
                [
                    (one.id, one.flow, " ".join(one.origins), one.created_at, one.revoked_at or "")
                    for one in found
                ],
            )
        return OK

    return with_store(str(existing(db)), show)


@token.command
def revoke(
    id: Annotated[str, Parameter(name="TOKEN", help="The id of a token.")], /, *, db: Db = _DB
) -> int:
    """Revoke a token: its pages can begin and carry on nothing any more."""

    async def end(store: Store) -> int:
        screen = Screen()
        if await store.sessions.revoke_token(id, WallClock().now()):
            screen.line(f"{id} is revoked")
            return OK
        screen.say(f"error: no token that could be used has the id {id}", "red")
        return FAILED

    return with_store(str(existing(db)), end)
