"""The writing verbs of a resource, each in one transaction. Rows are dicts by field name."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from concave.failpoints import armed, reach
from concave.hooks import HookContext, ResourceHooks, Row, call_hook
from concave_sqlalchemy.defaults import defaults_of
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.refusals import database_errors
from concave_sqlalchemy.schema import Body, RowSchema, Validated
from concave_sqlalchemy.write import Write

__all__ = ["Operations"]

log = logging.getLogger("concave.resource")


class Operations:
    """What can be done to a table's rows. Statements are built once; their parameters are bound."""

    def __init__(self, table: Table, schema: RowSchema, hooks: ResourceHooks, outbox: Outbox) -> None:
        self._table = table
        self._schema = schema
        self._hooks = hooks
        self._outbox = outbox
        self._transactions = outbox.transactions
        self._key = schema.key
        self._names = frozenset(field.name for field in schema.fields)
        self._columns = [field.column.label(field.name) for field in schema.fields]
        self._select = select(*self._columns)
        self._select_one = self._select.where(schema.key.condition)
        self._lock_one = self._select_one.with_for_update()
        self._delete_one = table.delete().where(schema.key.condition).returning(*self._columns)

    # Writing. The answer is made before the commit: nothing that could fail comes after it.

    async def create(self, request: Request, user: Any, body: Mapping[str, Any]) -> bytes:
        """A new row."""
        schema, hook = self._schema, self._hooks.on_before_create
        async with self._writing(request, user) as write:
            given = schema.from_client(schema.create, body, hooked=hook is not None)
            data = given.values
            if hook is not None:
                data = schema.from_hook(schema.insertable, await _changed(given, hook, write.ctx))
            statement = insert(self._table).values(schema.for_database(data)).returning(*self._columns)
            row = await self._one(write.session, statement)
            answer = schema.to_json(row)
            await _after(self._hooks.on_after_create, write.ctx, row)
        return answer

    async def patch(self, request: Request, user: Any, key: KeyValue, body: Mapping[str, Any]) -> bytes:
        """Change some columns. A change of nothing returns the row as it is and is no update: no after-hook, no trigger."""
        return await self._update(request, user, key, body, whole=False)

    async def replace(self, request: Request, user: Any, key: KeyValue, body: Mapping[str, Any]) -> bytes:
        """Change all columns: those that neither client nor hook gave go back to their defaults."""
        return await self._update(request, user, key, body, whole=True)

    async def _update(
        self, request: Request, user: Any, key: KeyValue, body: Mapping[str, Any], *, whole: bool
    ) -> bytes:
        schema, hook = self._schema, self._hooks.on_before_update
        async with self._writing(request, user) as write:
            current = await self._locked(write.session, key)
            model = schema.replace if whole else schema.patch
            given = schema.from_client(model, self._without_key(body, key), hooked=hook is not None)
            data = given.values
            if hook is not None:
                data = schema.from_hook(
                    schema.updatable, await _changed(given, hook, write.ctx, self._key.plain(key))
                )
                if given.missing is not None and any(
                    given.lacks(name) and name not in data for name in self._names
                ):
                    raise given.missing
            if whole:
                data |= defaults_of(schema.replaceable, data, dialect=write.session.get_bind().dialect.name)
            if not data:
                return schema.to_json(current)
            statement = self._table.update().where(self._key.condition).values(schema.for_database(data))
            row = await self._one(write.session, statement.returning(*self._columns), key)
            answer = schema.to_json(row)
            await _after(self._hooks.on_after_update, write.ctx.about(current), row)
        return answer

    async def delete(self, request: Request, user: Any, key: KeyValue) -> None:
        """Delete a row; the after-hook gets it as it was."""
        async with self._writing(request, user) as write:
            await self._locked(write.session, key)
            if self._hooks.on_before_delete is not None:
                await call_hook(self._hooks.on_before_delete, write.ctx, self._key.plain(key))
            row = await self._one(write.session, self._delete_one, key)
            await _after(self._hooks.on_after_delete, write.ctx, row)

    @asynccontextmanager
    async def _writing(self, request: Request, user: Any) -> AsyncGenerator[Write]:
        """BEGIN … hooks and SQL … outbox rows, COMMIT, then what waited for the commit: callbacks and the relay."""
        hooked = self._hooks != ResourceHooks()
        with database_errors():
            async with self._transactions.writing(hooked=hooked) as session:
                write = Write(session, self._outbox, user=user, request=request, resource=self._table.name)
                if armed:
                    await reach("write.begun")
                try:
                    yield write
                    if armed:
                        await reach("write.hooked")
                    await write.flush()
                    if armed:
                        await reach("write.flushed")
                finally:
                    write.close()
        if armed:
            await reach("write.committed")
        for callback in write.ctx.after_commit:
            await _call_after_commit(callback)
        await self._outbox.relay(write.submissions)

    async def _locked(self, session: AsyncSession, key: KeyValue) -> Row:
        """The row that is about to be changed, so that it stays as it is until then; 404 where there is none."""
        return await self._one(session, self._lock_one, key)

    async def _one(self, session: AsyncSession, statement: Any, key: KeyValue = ()) -> Row:
        """The one row of a statement; 404 where there is none."""
        found = (await session.execute(statement, self._key.parameters(key))).mappings().one_or_none()
        if found is None:
            raise Problem(404, "there is no such row")
        return self._schema.row_of(found)

    def _without_key(self, body: Mapping[str, Any], key: KeyValue) -> Mapping[str, Any]:
        """A body without the row's own key, which a client that sends back what it got will have in it."""
        own = {
            name
            for name, value in zip(self._key.names, key, strict=True)
            if str(body.get(name)) == str(value)
        }
        return {field: value for field, value in body.items() if field not in own} if own else body


async def _changed(given: Body, hook: Callable[..., Any], *context: Any) -> Validated:
    """What a before-hook makes of a client's data, be it a replacement or a change in place."""
    data = dict(given.values)
    try:
        changed = await call_hook(hook, *context, data)
    except KeyError as error:
        # It relied on a required field that the client left out: that is the client's mistake.
        if error.args and given.missing is not None and given.lacks(error.args[0]):
            raise given.missing from error
        raise
    return data if changed is None else changed


async def _after(hook: Callable[..., Any] | None, ctx: HookContext, row: Row) -> None:
    if armed:
        await reach("write.row")
    if hook is not None:
        await call_hook(hook, ctx, row)


async def _call_after_commit(callback: Any) -> None:
    try:
        result = callback()
        if inspect.isawaitable(result):
            await result
    except Exception:  # the row is committed: whatever this raises, the answer is that it is
        log.exception("a callback of ctx.on_commit raised")
