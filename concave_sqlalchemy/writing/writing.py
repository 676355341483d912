"""What can be written to a table over HTTP. Each request is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from concave.hooks import ResourceHooks
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.scopes import both, is_denied
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.call import Answer, Call
from concave_sqlalchemy.writing.perform import Performer
from concave_sqlalchemy.writing.rows import Rows
from concave_sqlalchemy.writing.verbs import Verbs

__all__ = ["Writing"]


@dataclass(frozen=True, slots=True)
class Writing:
    """A resource's writing side."""

    performer: Performer
    rows: Rows
    verbs: Verbs

    @classmethod
    def of(cls, table: Table, schema: RowSchema, hooks: ResourceHooks, outbox: Outbox) -> Writing:
        """The writing side of a table's resource."""
        rows = Rows(table, schema)
        performer = Performer(table.name, outbox, hooked=hooks != ResourceHooks())
        return cls(performer, rows, Verbs(rows, schema, hooks))

    async def create(self, call: Call, body: Mapping[str, Any]) -> Answer:
        """A new row."""
        _check_allowed(call)

        async def work(write: Write) -> Answer:
            return Answer(201, await self.verbs.create(write, body, access=call.access))

        return await self.performer.perform(call, work)

    async def update(self, call: Call, key: KeyValue, body: Mapping[str, Any], *, whole: bool) -> Answer:
        """Change some columns of a row, or put a `whole` row in place of it."""
        within = both(call.access["read"], call.access["update"])

        async def work(write: Write) -> Answer:
            current = await self.rows.locked(write.session, key, where=within)
            row = await self.verbs.update(write, key, body, current=current, whole=whole, within=within)
            return Answer(200, row)

        return await self.performer.perform(call, work)

    async def delete(self, call: Call, key: KeyValue) -> Answer:
        """Delete a row."""
        within = both(call.access["read"], call.access["delete"])

        async def work(write: Write) -> Answer:
            await self.rows.locked(write.session, key, where=within)
            await self.verbs.delete(write, key)
            return Answer(204)

        return await self.performer.perform(call, work)


def _check_allowed(call: Call) -> None:
    if is_denied(call.access["create"]):
        raise Problem(403, "you may not create rows here")
