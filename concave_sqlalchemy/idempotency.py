"""``Idempotency-Key``: a request that is sent again is answered again, and carried out once.

The answer is kept in the transaction of the write: there is a record exactly where there is the write. While the first is under way,
another with its key is refused: by this process, by PostgreSQL's advisory locks, and at the last by the record's primary key.

A record whose time is over is no longer answered. It goes when its key is met again, or with a later write (see `Records.keep`), or with
a sweep of the outbox: an app that sweeps nothing doesn't keep them for ever.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic_core import from_json, to_json, to_jsonable_python
from sqlalchemy import BigInteger, Float, bindparam, delete, func, insert, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstanceState, Session
from starlette.requests import Request

from concave_sqlalchemy.problems import Problem, in_header
from concave_sqlalchemy.refusals import is_given_up
from concave_sqlalchemy.tables import database_time, explained, has_table, idempotency_table
from concave_sqlalchemy.transactions import AnySession, Transactions
from concave_sqlalchemy.writing.call import Answer, IdempotencyKey

__all__ = ["Expiry", "Records", "in_flight", "key_of"]

HEADER: Final = "idempotency-key"
RAW_HEADER: Final = HEADER.encode()
KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
EXPIRED_AT_ONCE: Final = 100
UNIQUE: Final = ("id", "sub")
"""By which a user is known alone: an account's number, a token's subject."""
NAMES: Final = ("username", "email")

COLUMNS = idempotency_table.c
FIND = select(
    COLUMNS.fingerprint,
    COLUMNS.status,
    COLUMNS.headers,
    COLUMNS.body,
    (COLUMNS.expires_at > database_time()).label("alive"),
).where(COLUMNS.id == bindparam("record"))
KEEP = insert(idempotency_table).values(
    {
        COLUMNS.id: bindparam("record"),
        COLUMNS.fingerprint: bindparam("fingerprint"),
        COLUMNS.status: bindparam("status"),
        COLUMNS.headers: bindparam("headers"),
        COLUMNS.body: bindparam("body"),
        COLUMNS.expires_at: database_time() + bindparam("ttl", type_=Float),
    }
)
FORGET = delete(idempotency_table).where(COLUMNS.id == bindparam("record"))
TRY_LOCK = select(func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)))
EXPIRED = select(COLUMNS.id).where(COLUMNS.expires_at <= database_time()).limit(EXPIRED_AT_ONCE)
# Who waited for a record that another transaction has locked, and had locked some itself, could wait for ever.
CLEAR = delete(idempotency_table).where(
    COLUMNS.id.in_(EXPIRED.with_for_update(skip_locked=True).scalar_subquery())
)


async def key_of(request: Request, *, resource: str, user: Any) -> IdempotencyKey | None:
    """The key of a request, if it has one. Raises `Problem` 400 for what isn't 1 to 255 visible ASCII characters."""
    if RAW_HEADER not in [name for name, _ in request.headers.raw]:
        return None
    given = request.headers.getlist(HEADER)
    # The draft standard has it in quotes, and most clients don't.
    key = given[0].removeprefix('"').removesuffix('"') if len(given[0]) > 1 else given[0]
    if len(given) > 1 or not KEY.fullmatch(key):
        raise in_header(400, HEADER, "must be one key of 1 to 255 visible ASCII characters")
    scope = request.scope
    asked = [request.method, scope["path"], scope.get("query_string", b"").decode("latin-1")]
    return IdempotencyKey(
        _digest([resource, *_identity(user, request.headers), key]), _digest(asked, await request.body())
    )


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """The answers to requests with keys, kept for `ttl` seconds."""

    ttl: float

    async def begin(self, session: AnySession, key: IdempotencyKey) -> Answer | None:
        """The answer that was given to this request; None where it is new, and nobody else's from now to the end of the transaction.

        Raises `Problem`: 409 while another is being carried out, 422 where the key was another request's, and
        `ConfigurationError` without a table.
        """
        try:
            if session.get_bind().dialect.name == "postgresql":
                lock = int.from_bytes(bytes.fromhex(key.id)[:8], "big", signed=True)
                if not (await session.execute(TRY_LOCK, {"lock": lock})).scalar_one():
                    raise in_flight()
            found = (await session.execute(FIND, {"record": key.id})).one_or_none()
            if found is not None and not found.alive:
                await session.execute(FORGET, {"record": key.id})
                found = None
        except DBAPIError as error:
            raise explained(error, idempotency_table) from error
        if found is None:
            return None
        if found.fingerprint != key.fingerprint:
            raise in_header(422, HEADER, "was sent with another request", code="IDEMPOTENCY_KEY_REUSED")
        return Answer(found.status, found.body, from_json(found.headers))

    async def keep(self, session: AnySession, key: IdempotencyKey, answer: Answer) -> None:
        """Keep an answer, if and only if the transaction commits. Now and then, a few that have expired go with it."""
        record = {
            "record": key.id,
            "fingerprint": key.fingerprint,
            "status": answer.status,
            "headers": to_json(dict(answer.headers)).decode(),
            "body": answer.body,
            "ttl": self.ttl,
        }
        await session.execute(KEEP, record)
        if _clears(key):
            await _clear_aside(session)


class Expiry:
    """Deletes the records of one database whose time is over."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._has_table = False

    async def sweep(self) -> None:
        """Delete what has expired; nothing is written where nothing has."""
        while await self._any() and await self._clear():
            pass

    async def _clear(self) -> bool:
        """Whether anything went: what others have locked, they delete."""

        def clear(session: Session) -> bool:
            gone: Any = session.execute(CLEAR)
            return bool(gone.rowcount)

        return await self._transactions.write_at_once(clear)

    async def _any(self) -> bool:
        return await self._transactions.read(self._has_any)

    def _has_any(self, session: Session) -> bool:
        self._has_table = self._has_table or has_table(session.connection(), idempotency_table)
        return self._has_table and session.execute(EXPIRED.limit(1)).first() is not None


def in_flight() -> Problem:
    """409 for a key whose first request isn't answered yet."""
    message = "a request with this key is being carried out"
    return in_header(409, HEADER, message, code="IDEMPOTENCY_IN_FLIGHT", retry_after="1")


async def _clear_aside(session: AnySession) -> None:
    """Delete what has expired, in a savepoint.

    In a transaction that sees the database as it once was (REPEATABLE READ), a record that another one has deleted since is a
    serialization failure, and the write has no part in that.
    """
    try:
        async with session.begin_nested():
            await session.execute(CLEAR)
    except DBAPIError as error:
        if not is_given_up(error):
            raise


def _clears(key: IdempotencyKey) -> bool:
    """Whether its write takes expired records along: one in sixteen, by the digest, so that nothing is to be asked or remembered."""
    return key.id.endswith("0")


def _identity(user: Any, headers: Mapping[str, str]) -> list[str | None]:
    """What tells a user from all others, as far as that is known: nobody is answered what was another's."""
    known = user if isinstance(user, str | int) else _first(user, UNIQUE)
    if known is not None:
        return [_as_text(known)]
    shown = headers.get("authorization")
    if user is None:
        return [shown]
    state: Any = inspect(user, raiseerr=False)
    if isinstance(state, InstanceState) and state.identity is not None:
        # Of a mapped class, whose key has another name; to look at all of it could load what it refers to.
        return [_as_text([str(each) for each in cast("Any", state).identity])]
    # A name may be one of many, each a tenant's own: all of the user is looked at where it can be.
    return [_as_text(user) or _as_text(_first(user, NAMES)) or headers.get("cookie"), shown]


def _first(user: Any, names: Sequence[str]) -> Any:
    """The first of these that a user has."""
    given: Any = user
    is_mapping = isinstance(user, Mapping)
    for name in names:
        found = given.get(name) if is_mapping else getattr(given, name, None)
        if found is not None:
            return found
    return None


def _as_text(value: Any) -> str | None:
    """The same text in each process; None for nothing, and for an object of a class that JSON knows nothing of."""
    try:
        return None if value is None else json.dumps(value, sort_keys=True, default=_plain)
    except (TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(cast("Any", value), key=repr)  # in each process their order is another one
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(cast("Any", value)) if isinstance(value, Mapping) else to_jsonable_python(value)


def _digest(parts: list[str | None], content: bytes = b"") -> str:
    return hashlib.sha256(to_json(parts) + b"\n" + content).hexdigest()
