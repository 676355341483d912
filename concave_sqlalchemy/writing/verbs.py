"""What can be done to one row within a transaction: the SQL, with the hooks around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy.orm import Session

from concave.hooks import HookContext, PlainTriggers, ResourceHooks, Row
from concave_sqlalchemy.defaults import defaults_of
from concave_sqlalchemy.etags import Tags
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.merge_patch import merged
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.schema import Body, RowSchema, Validated
from concave_sqlalchemy.scopes import OPEN, Access, Where
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.insert_with_tasks import TasksToBe
from concave_sqlalchemy.writing.rows import Rows

__all__ = ["Manner", "Shown", "Target", "Verbs"]

Manner: TypeAlias = Literal["merge", "set", "replace"]
"""How a row is changed: by a merge patch (RFC 7396), by setting columns, or by all columns: who isn't given goes to its default."""


class Shown(NamedTuple):
    """A row as its client sees it, made before its after-hook could change it."""

    body: bytes
    """Its JSON."""
    tag: str | None
    """Its ETag; None for who may not read it."""
    path: str
    """Its key, as part of a path."""


class Target(NamedTuple):
    """A row to be changed or deleted, which is locked."""

    current: Row
    within: Where
    """Where it must still be afterwards."""
    certain: bool = False
    """Whether the client means the row as it is now, and no other state of it."""

    @property
    def expected(self) -> Row | None:
        """The row as the statement that writes it must find it."""
        return self.current if self.certain else None


@dataclass(frozen=True, slots=True, eq=False)
class Verbs:
    """The writing verbs of a table's rows."""

    rows: Rows
    tags: Tags
    schema: RowSchema
    hooks: ResourceHooks

    def read_new(self, body: Mapping[str, Any]) -> Body:
        """A client's new row, checked; 422 where it can't be one."""
        hooked = self.hooks.on_before_create is not None
        return self.schema.from_client(self.schema.create, body, hooked=hooked)

    def read_change(self, body: Mapping[str, Any], key: KeyValue | None, manner: Manner) -> Body:
        """A client's change of the row with this key, or of any, or its whole row; 422 where it can't be one."""
        hooked = self.hooks.on_before_update is not None
        model = self.schema.replace if manner == "replace" else self.schema.patch
        bare = body if key is None else self.schema.key.without(body, key)
        return self.schema.from_client(model, bare, hooked=hooked)

    async def create(self, write: Write, given: Body, *, access: Access) -> Shown:
        """A new row; 403 where it isn't within the scope of those to create. Only its key is shown to one who may not read it."""
        data = await self._to_insert(write, given)
        row = await write.session.run_sync(self.rows.insert, data)
        return await self._created(write, row, access)

    @property
    def creates_at_once(self) -> bool:
        """Whether nobody who could wait for something has a part in a new row."""
        before, after = self.hooks.on_before_create, self.hooks.on_after_create
        is_waited_for = before is not None or not isinstance(after, PlainTriggers | None)
        return not is_waited_for and not self.schema.needs_hook

    def create_at_once(
        self, session: Session, given: Body, tasks: TasksToBe | None = None
    ) -> tuple[Shown, Row]:
        """A new row of one who may read it, where nobody who could wait has a part in it; with its `tasks` where they can go with it."""
        row = self.rows.insert(session, given.values, tasks)
        shown = self._shown(row)
        if tasks is not None:
            tasks.confirm(row, shown.body if self.schema.shows_all else None)
        return shown, row

    async def create_unless_there(
        self, write: Write, given: Body, fields: Sequence[ResourceField], *, access: Access
    ) -> Shown | None:
        """A new row, as `create`; None where there is one already that has the same values of these fields."""
        data = await self._to_insert(write, given)
        row = await self.rows.insert_unless_there(write.session, data, fields)
        return None if row is None else await self._created(write, row, access)

    async def update(self, write: Write, target: Target, given: Body, manner: Manner) -> Shown:
        """Change the columns that are given, and in the `manner` of replacing also those that neither client nor hook gave.

        A change of nothing leaves the row as it is and is no update: no after-hook, no trigger. 403 where the row would leave its
        scope; 412 where it is no longer what it was certain to be.
        """
        schema, hook = self.schema, self.hooks.on_before_update
        key = schema.key.of_row(target.current)
        if manner == "merge":
            given = self._merged(target.current, given)
        data = given.values
        if hook is not None:
            data = await _changed(write, given, hook, schema.key.plain(key))
            data = schema.from_hook(schema.updatable, data)
            if given.missing is not None and any(
                given.lacks(field.name) and field.name not in data for field in schema.fields
            ):
                raise given.missing
        if manner == "replace":
            data |= defaults_of(
                schema.replaceable,
                data,
                current=target.current,
                columns=schema.columns,
                dialect=write.session.get_bind().dialect.name,
            )
        if not data:
            return self._shown(target.current)
        row = await self.rows.update(write.session, key, data, expected=target.expected)
        if not all(await self.rows.satisfied(write.session, key, target.within)):
            raise Problem(403, "the row would leave what you may change")
        shown = self._shown(row)
        await _after(write, self.hooks.on_after_update, write.ctx.about(target.current), row)
        return shown

    async def delete(self, write: Write, target: Target) -> None:
        """Delete the row; the after-hook gets it as it was. 412 as for `update`."""
        key = await self._before_delete(write, target)
        row = await self.rows.delete(write.session, key, expected=target.expected)
        await _after(write, self.hooks.on_after_delete, write.ctx, row)

    async def delete_all(self, write: Write, targets: Sequence[Target]) -> None:
        """Delete rows, each with its hooks: together, unless a before-hook is to see the database in between.

        One that went with another before its turn came is deleted all the same.
        """
        together = self.hooks.on_before_delete is None
        for part in [targets] if together else [[target] for target in targets]:
            for target in part:
                await self._before_delete(write, target)
            for row in await self.rows.delete_all(write.session, [target.current for target in part]):
                await _after(write, self.hooks.on_after_delete, write.ctx, row)

    async def _before_delete(self, write: Write, target: Target) -> KeyValue:
        key = self.schema.key.of_row(target.current)
        if self.hooks.on_before_delete is not None:
            await write.call_hook(self.hooks.on_before_delete, write.ctx, self.schema.key.plain(key))
        return key

    async def _to_insert(self, write: Write, given: Body) -> Validated:
        schema, hook = self.schema, self.hooks.on_before_create
        data = given.values if hook is None else await _changed(write, given, hook)
        return data if hook is None and not schema.needs_hook else schema.from_hook(schema.insertable, data)

    async def _created(self, write: Write, row: Row, access: Access) -> Shown:
        shown = await self._shown_if_allowed(write, row, access)
        await _after(write, self.hooks.on_after_create, write.ctx, row)
        return shown

    def _merged(self, current: Row, given: Body) -> Body:
        """A merge patch within JSON columns too: their values as they are to be."""
        columns = given.values.keys() & self.schema.json
        values = {name: merged(current[name], given.values[name]) for name in columns}
        return given._replace(values={**given.values, **values}) if columns else given

    def _shown(self, row: Row) -> Shown:
        body = self.schema.to_json(row)
        return Shown(body, self.tags.of(row, body), self.schema.key.render(self.schema.key.of_row(row)))

    async def _shown_if_allowed(self, write: Write, row: Row, access: Access) -> Shown:
        if access is OPEN:
            return self._shown(row)
        key = self.schema.key.of_row(row)
        allowed, visible = await self.rows.satisfied(write.session, key, access["create"], access["read"])
        if not allowed:
            raise Problem(403, "the row is outside of what you may create")
        if visible:
            return self._shown(row)
        return Shown(self.schema.to_json(self.schema.key.part_of(row)), None, self.schema.key.render(key))


async def _changed(write: Write, given: Body, hook: Callable[..., Any], *key: Any) -> Validated:
    """What a before-hook makes of a client's data, be it a replacement or a change in place."""
    data = dict(given.values)
    try:
        changed = await write.call_hook(hook, write.ctx, *key, data)
    except KeyError as error:
        # It relied on a required field that the client left out: that is the client's mistake.
        if error.args and given.missing is not None and given.lacks(error.args[0]):
            raise given.missing from error
        raise
    return data if changed is None else changed


async def _after(write: Write, hook: Callable[..., Any] | None, ctx: HookContext, row: Row) -> None:
    await write.reach("write.row")
    if hook is not None:
        await write.call_hook(hook, ctx, row)
