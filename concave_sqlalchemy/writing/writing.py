"""What can be written to a table over HTTP. Each request is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from concave.hooks import ResourceHooks
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.schema import RowSchema
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

        async def work(write: Write) -> Answer:
            return Answer(201, await self.verbs.create(write, body))

        return await self.performer.perform(call, work)

    async def update(self, call: Call, key: KeyValue, body: Mapping[str, Any], *, whole: bool) -> Answer:
        """Change some columns of a row, or put a `whole` row in place of it."""

        async def work(write: Write) -> Answer:
            current = await self.rows.locked(write.session, key)
            return Answer(200, await self.verbs.update(write, key, body, current=current, whole=whole))

        return await self.performer.perform(call, work)

    async def delete(self, call: Call, key: KeyValue) -> Answer:
        """Delete a row."""

        async def work(write: Write) -> Answer:
            await self.rows.locked(write.session, key)
            await self.verbs.delete(write, key)
            return Answer(204)

        return await self.performer.perform(call, work)
