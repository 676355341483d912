"""What can be done to one row within a transaction: the SQL, with the hooks around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from concave.failpoints import armed, reach
from concave.hooks import HookContext, ResourceHooks, Row, call_hook
from concave_sqlalchemy.defaults import defaults_of
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.schema import Body, RowSchema, Validated
from concave_sqlalchemy.scopes import Access, Where
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.rows import Rows

__all__ = ["Verbs"]


@dataclass(frozen=True, slots=True)
class Verbs:
    """The writing verbs of a table's rows. Each returns the row as JSON, made before its after-hook could change it."""

    rows: Rows
    schema: RowSchema
    hooks: ResourceHooks

    async def create(self, write: Write, body: Mapping[str, Any], *, access: Access) -> bytes:
        """A new row; 403 where it isn't within the scope of those to create. Only its key is shown to one who may not read it."""
        schema, hook = self.schema, self.hooks.on_before_create
        given = schema.from_client(schema.create, body, hooked=hook is not None)
        data = given.values
        if hook is not None:
            data = await _changed(given, hook, write.ctx)
        if hook is not None or schema.needs_hook:
            data = schema.from_hook(schema.insertable, data)
        row = await self.rows.insert(write.session, data)
        shown = schema.to_json(row if await self._may_see(write, row, access) else schema.key.part_of(row))
        await _after(self.hooks.on_after_create, write.ctx, row)
        return shown

    async def update(
        self,
        write: Write,
        key: KeyValue,
        body: Mapping[str, Any],
        *,
        current: Row,
        whole: bool,
        within: Where,
    ) -> bytes:
        """Change the columns that are given; or all, if `whole`: those that neither client nor hook gave go to their defaults.

        A change of nothing leaves the row as it is and is no update: no after-hook, no trigger. 403 where the row isn't `within`
        its scope any more.
        """
        schema, hook = self.schema, self.hooks.on_before_update
        model = schema.replace if whole else schema.patch
        given = schema.from_client(model, self._without_key(body, key), hooked=hook is not None)
        data = given.values
        if hook is not None:
            data = await _changed(given, hook, write.ctx, schema.key.plain(key))
            data = schema.from_hook(schema.updatable, data)
            if given.missing is not None and any(
                given.lacks(field.name) and field.name not in data for field in schema.fields
            ):
                raise given.missing
        if whole:
            data |= defaults_of(schema.replaceable, data, dialect=write.session.get_bind().dialect.name)
        if not data:
            return schema.to_json(current)
        row = await self.rows.update(write.session, key, data)
        if not all(await self.rows.satisfied(write.session, key, within)):
            raise Problem(403, "the row would leave what you may change")
        shown = schema.to_json(row)
        await _after(self.hooks.on_after_update, write.ctx.about(current), row)
        return shown

    async def delete(self, write: Write, key: KeyValue) -> None:
        """Delete the row; the after-hook gets it as it was."""
        if self.hooks.on_before_delete is not None:
            await call_hook(self.hooks.on_before_delete, write.ctx, self.schema.key.plain(key))
        row = await self.rows.delete(write.session, key)
        await _after(self.hooks.on_after_delete, write.ctx, row)

    async def _may_see(self, write: Write, row: Row, access: Access) -> bool:
        key = self.schema.key.of_row(row)
        allowed, visible = await self.rows.satisfied(write.session, key, access["create"], access["read"])
        if not allowed:
            raise Problem(403, "the row is outside of what you may create")
        return visible

    def _without_key(self, body: Mapping[str, Any], key: KeyValue) -> Mapping[str, Any]:
        """A body without the row's own key, which a client that sends back what it got will have in it."""
        own = {
            name
            for name, value in zip(self.schema.key.names, key, strict=True)
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
