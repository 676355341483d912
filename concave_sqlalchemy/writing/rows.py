"""The SQL that writes one row. Rows are dicts by field name; statements are built once, and their parameters bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, case, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from concave.hooks import Row
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.scopes import Where

__all__ = ["Rows"]


class Rows:
    """A table's rows, one at a time."""

    def __init__(self, table: Table, schema: RowSchema) -> None:
        self._table = table
        self._schema = schema
        self._key = schema.key
        columns = [field.column.label(field.name) for field in schema.fields]
        self._lock = select(*columns).where(schema.key.condition).with_for_update()
        self._insert = insert(table).returning(*columns)
        self._update = table.update().where(schema.key.condition).returning(*columns)
        self._delete = table.delete().where(schema.key.condition).returning(*columns)

    async def locked(self, session: AsyncSession, key: KeyValue, *, where: Where) -> Row:
        """A row that is about to be changed, so that it stays as it is until then; 404 where there is none within `where`."""
        return await self._one(session, self._lock if where is None else self._lock.where(where), key)

    async def insert(self, session: AsyncSession, data: Mapping[str, Any]) -> Row:
        """A new row."""
        return await self._one(session, self._insert.values(self._schema.for_database(data)))

    async def update(self, session: AsyncSession, key: KeyValue, data: Mapping[str, Any]) -> Row:
        """The row as it is after it was given these values, which may be SQL expressions."""
        return await self._one(session, self._update.values(self._schema.for_database(data)), key)

    async def delete(self, session: AsyncSession, key: KeyValue) -> Row:
        """The row as it was."""
        return await self._one(session, self._delete, key)

    async def satisfied(self, session: AsyncSession, key: KeyValue, *wheres: Where) -> list[bool]:
        """Which of these conditions the row meets as it is now."""
        if all(where is None for where in wheres):
            return [True] * len(wheres)
        cases = [literal(1) if where is None else case((where, 1), else_=0) for where in wheres]
        statement = select(*cases).select_from(self._table).where(self._key.condition)
        found = (await session.execute(statement, self._key.parameters(key))).one_or_none()
        return [bool(each) for each in found] if found is not None else [False] * len(wheres)

    async def _one(self, session: AsyncSession, statement: Any, key: KeyValue = ()) -> Row:
        found = (await session.execute(statement, self._key.parameters(key))).mappings().one_or_none()
        if found is None:
            raise Problem(404, "there is no such row")
        return self._schema.row_of(found)
