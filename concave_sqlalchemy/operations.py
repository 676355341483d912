"""The verbs of a resource, each in one transaction. Rows are dicts by field name."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, func, insert, select
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from concave.hooks import HookContext, ResourceHooks, Row, call_hook
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.submission import submission
from concave_sqlalchemy.outbox import Outbox, Submission
from concave_sqlalchemy.pagination import PageRequest, encode_cursor
from concave_sqlalchemy.problems import Problem, conflict
from concave_sqlalchemy.schema import RowSchema

__all__ = ["Operations", "Write"]

log = logging.getLogger("concave.resource")


@dataclass(frozen=True, slots=True)
class Write:
    """One writing request: its transaction, what its hooks are told, and the tasks that commit with it."""

    session: AsyncSession
    ctx: HookContext
    submissions: list[Submission]


class Operations:
    """What can be done to a table's rows. Statements are built once; their parameters are bound."""

    def __init__(self, table: Table, schema: RowSchema, hooks: ResourceHooks, outbox: Outbox) -> None:
        self._table = table
        self._schema = schema
        self._hooks = hooks
        self._outbox = outbox
        self._transactions = outbox.transactions
        self._key = schema.key.column
        self._columns = [field.column.label(field.name) for field in schema.fields]
        self._select = select(*self._columns)
        self._count = select(func.count()).select_from(table)

    # Reading

    async def page(self, wanted: PageRequest) -> dict[str, Any]:
        """A page of rows in the order of their keys."""
        statement = self._select.order_by(self._key).limit(wanted.limit + 1)
        if wanted.has_cursor:
            statement = statement.where(self._key > wanted.after)
        async with self._transactions.reading() as session:
            rows = [dict(row) for row in (await session.execute(statement)).mappings()]
            total = (await session.execute(self._count)).scalar_one() if wanted.total_count else None
        items, has_more = rows[: wanted.limit], len(rows) > wanted.limit
        cursor = encode_cursor(items[-1][self._schema.key.name]) if has_more else None
        page = {"items": items, "nextCursor": cursor, "hasMore": has_more}
        return page if total is None else {**page, "totalCount": total}

    async def count(self) -> int:
        """How many rows there are."""
        async with self._transactions.reading() as session:
            return int((await session.execute(self._count)).scalar_one())

    async def get(self, key: Any) -> Row:
        """One row; 404 where there is none."""
        async with self._transactions.reading() as session:
            return _found(
                (await session.execute(self._select.where(self._key == key))).mappings().one_or_none()
            )

    # Writing

    async def create(self, request: Request, user: Any, body: Mapping[str, Any]) -> Row:
        """A new row."""
        schema = self._schema
        async with self._writing(request, user) as write:
            data = schema.from_client(schema.create, body)
            if self._hooks.on_before_create is not None:
                changed = await call_hook(self._hooks.on_before_create, write.ctx, data)
                data = schema.from_hook(schema.insertable, data if changed is None else changed)
            statement = insert(self._table).values(schema.for_database(data)).returning(*self._columns)
            row = dict((await write.session.execute(statement)).mappings().one())
            if self._hooks.on_after_create is not None:
                await call_hook(self._hooks.on_after_create, write.ctx, row)
        return row

    async def patch(self, request: Request, user: Any, key: Any, body: Mapping[str, Any]) -> Row:
        """Change some columns. A change of nothing returns the row as it is and is no update: no after-hook, no trigger."""
        return await self._update(request, user, key, body, whole=False)

    async def replace(self, request: Request, user: Any, key: Any, body: Mapping[str, Any]) -> Row:
        """Change all columns: those that are left out go back to their defaults."""
        return await self._update(request, user, key, body, whole=True)

    async def _update(
        self, request: Request, user: Any, key: Any, body: Mapping[str, Any], *, whole: bool
    ) -> Row:
        schema = self._schema
        async with self._writing(request, user) as write:
            current = await self._locked(write.session, key)
            data = schema.from_client(schema.replace if whole else schema.patch, self._without_key(body, key))
            if whole:
                data = schema.with_defaults(data)
            if self._hooks.on_before_update is not None:
                changed = await call_hook(self._hooks.on_before_update, write.ctx, key, data)
                # Defaults may be SQL expressions, which only the database can check.
                if changed is not None:
                    data = schema.from_hook(schema.updatable, changed)
            if not data:
                return current
            statement = self._table.update().where(self._key == key).values(schema.for_database(data))
            row = _found(
                (await write.session.execute(statement.returning(*self._columns))).mappings().one_or_none()
            )
            if self._hooks.on_after_update is not None:
                await call_hook(self._hooks.on_after_update, write.ctx, row)
        return row

    async def delete(self, request: Request, user: Any, key: Any) -> None:
        """Delete a row; the after-hook gets it as it was."""
        async with self._writing(request, user) as write:
            await self._locked(write.session, key)
            if self._hooks.on_before_delete is not None:
                await call_hook(self._hooks.on_before_delete, write.ctx, key)
            statement = self._table.delete().where(self._key == key).returning(*self._columns)
            row = _found((await write.session.execute(statement)).mappings().one_or_none())
            if self._hooks.on_after_delete is not None:
                await call_hook(self._hooks.on_after_delete, write.ctx, row)

    @asynccontextmanager
    async def _writing(self, request: Request, user: Any) -> AsyncGenerator[Write]:
        """BEGIN … hooks and SQL … outbox rows, COMMIT, then what waited for the commit: callbacks and the relay."""
        submissions: list[Submission] = []
        with _database_errors():
            async with self._transactions.writing() as session:
                ctx = HookContext(
                    user=user,
                    request=request,
                    session=session,
                    resource=self._table.name,
                    enqueue=_into(submissions),
                )
                yield Write(session, ctx, submissions)
                await self._outbox.write(session, submissions)
        for callback in ctx.after_commit:
            await _call_after_commit(callback)
        await self._outbox.relay(submissions)

    async def _locked(self, session: AsyncSession, key: Any) -> Row:
        """The row that is about to be changed, so that it stays as it is until then; 404 where there is none."""
        statement = self._select.where(self._key == key).with_for_update()
        return _found((await session.execute(statement)).mappings().one_or_none())

    def _without_key(self, body: Mapping[str, Any], key: Any) -> Mapping[str, Any]:
        """A body without the row's own key, which a client that sends back what it got will have in it."""
        name = self._schema.key.name
        if name in body and str(body[name]) == str(key):
            return {field: value for field, value in body.items() if field != name}
        return body


def _into(submissions: list[Submission]) -> Any:
    """Where a hook's `ctx.enqueue` puts its task: checked now, written with the row, sent after the commit."""

    async def enqueue(
        task: TaskDefinition[Any, Any], input: Any, *, delay: Duration | None, scheduler: TaskScheduler | None
    ) -> str:
        new = submission(task, input, delay=delay)
        submissions.append(Submission(new, scheduler))
        return new.id

    return enqueue


def _found(row: Any) -> Row:
    if row is None:
        raise Problem(404, "there is no such row")
    return dict(row)


@contextmanager
def _database_errors() -> Generator[None]:
    """What a database refuses, as a problem that names no SQL; the log has it in full."""
    try:
        yield
    except IntegrityError as error:
        log.info("a constraint was violated: %s", error.orig)
        raise conflict() from error
    except DataError as error:
        log.info("a value was refused by the database: %s", error.orig)
        raise Problem(422, "the database refuses a value") from error
    except OperationalError as error:
        if "locked" not in str(error.orig):
            raise
        raise Problem(503, "the database is busy", headers={"retry-after": "1"}) from error


async def _call_after_commit(callback: Any) -> None:
    try:
        result = callback()
        if inspect.isawaitable(result):
            await result
    except Exception:  # the row is committed: whatever this raises, the answer is that it is
        log.exception("a callback of ctx.on_commit raised")
