"""The SQL that writes one row. Rows are dicts by field name; statements are built once, and their parameters bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import (
    ClauseElement,
    Column,
    ColumnElement,
    Float,
    RowMapping,
    Table,
    bindparam,
    case,
    insert,
    literal,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from concave.hooks import Row
from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.etags import changed
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.keys import KeyValue, no_such_row
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.scopes import Where
from concave_sqlalchemy.transactions import AnySession
from concave_sqlalchemy.writing.insert_with_tasks import TasksToBe

__all__ = ["Rows"]

VERSION: Final = "concave_version"
MAX_PARAMETERS: Final = 30_000
"""Of one statement: PostgreSQL and SQLite take some 32,000."""


class Rows:
    """A table's rows, one at a time."""

    def __init__(self, table: Table, schema: RowSchema, version: ResourceField | None) -> None:
        self._table = table
        self._schema = schema
        self._key = schema.key
        columns = [field.column.label(field.name) for field in schema.fields]
        self._returned = returned = [_returned(field.column).label(field.name) for field in schema.fields]
        self._names = tuple(field.name for field in schema.fields)
        self._lock = select(*columns).where(schema.key.condition).with_for_update()
        self._lock_all = select(*columns).order_by(*schema.key.columns).with_for_update()
        self._insert = insert(table).returning(*returned)
        self._update = table.update().where(schema.key.condition).returning(*returned)
        self._delete_all = table.delete().returning(*returned)
        self._delete = self._delete_all.where(schema.key.condition)
        # What a new row has unless it is given; nobody is asked for its number.
        self._always = {each.name: each.by_class for each in schema.fields if each.by_class is not None}
        if version is not None and not version.has_default:
            self._always[version.name] = 1
        self._version = version
        self._same = (
            None if version is None else version.column == bindparam(VERSION, type_=version.column.type)
        )

    async def locked(self, session: AnySession, key: KeyValue, *, where: Where) -> Row:
        """A row that is about to be changed, so that it stays as it is until then; 404 where there is none within `where`."""
        statement = self._lock if where is None else self._lock.where(where)
        return await session.run_sync(self._one, statement, self._key.parameters(key))

    async def all_locked(self, session: AnySession, where: Where, *, limit: int) -> list[Row]:
        """The rows that meet a condition, as many as `limit`, locked."""
        # In one order for all: two batches of the same rows wait for each other, and never each for the other's half.
        statement = self._lock_all if where is None else self._lock_all.where(where)
        found = (await session.execute(statement.limit(limit))).mappings().all()
        return [self._row(row) for row in found]

    async def locked_with(
        self, session: AnySession, values: Mapping[str, Any], *, where: Where
    ) -> Row | None:
        """The row that has these values, which are unique together, locked; None where there is none within `where`."""
        if any(value is None for value in values.values()):
            return None
        conditions = [
            field.column == values[field.name] for field in self._schema.fields if field.name in values
        ]
        statement = self._lock_all.where(*conditions)
        found = await session.execute(statement if where is None else statement.where(where))
        row = found.mappings().one_or_none()
        return None if row is None else self._row(row)

    async def insert_unless_there(
        self, session: AnySession, data: Mapping[str, Any], fields: Sequence[ResourceField]
    ) -> Row | None:
        """A new row; None where there is one with the same values of these fields, whoever put it there in the meantime."""
        of_dialect = _insert_of(session.get_bind().dialect.name)
        statement = (
            of_dialect(self._table)
            .values(self._schema.for_database(self._completed(data)))
            .on_conflict_do_nothing(index_elements=[field.column for field in fields])
            .returning(*self._returned)
        )
        found = (await session.execute(statement)).mappings().one_or_none()
        return None if found is None else self._row(found)

    def _completed(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**self._always, **data} if self._always else data

    def insert(self, session: Session, data: Mapping[str, Any], tasks: TasksToBe | None = None) -> Row:
        """A new row, with its `tasks` where they can go with it."""
        data = self._completed(data)
        if (
            tasks is not None
            and (found := tasks.insert(session, self._schema.for_database(data))) is not None
        ):
            return self._row(dict(zip(self._names, found, strict=True)))
        return self._one(session, *self._given(self._insert, data))

    async def update(
        self, session: AnySession, key: KeyValue, data: Mapping[str, Any], *, expected: Row | None = None
    ) -> Row:
        """The row as it is after it was given these values, which may be SQL expressions.

        412 where it isn't the `expected` one any more, by the version column.
        """
        if self._version is not None:
            data = {**data, self._version.name: self._version.column + 1}
        statement, values = self._given(self._update, data)
        return await self._if(session, statement, key, expected, values)

    async def delete(self, session: AnySession, key: KeyValue, *, expected: Row | None = None) -> Row:
        """The row as it was. 412 as for `update`."""
        return await self._if(session, self._delete, key, expected)

    async def delete_all(self, session: AnySession, rows: Sequence[Row]) -> list[Row]:
        """These rows as they were, in the same order; 404 where one can't be deleted.

        In one statement, so that they may refer to each other; and one may take another with it (ON DELETE CASCADE).
        """
        at_once = MAX_PARAMETERS // len(self._key.fields)
        keys = [self._key.of_row(row) for row in rows]
        deleted: dict[str, Row] = {}
        for at in range(0, len(keys), at_once):
            statement = self._delete_all.where(self._key.among(keys[at : at + at_once]))
            for found in (await session.execute(statement)).mappings():
                row = self._row(found)
                deleted[self._key.render(self._key.of_row(row))] = row
        texts = list(map(self._key.render, keys))
        # What the database doesn't tell of went with another, or hasn't gone at all: a trigger may have seen to that.
        gone = [key for key, text in zip(keys, texts, strict=True) if text not in deleted]
        for at in range(0, len(gone), at_once):
            left = select(literal(1)).where(self._key.among(gone[at : at + at_once])).limit(1)
            if (await session.execute(left)).first() is not None:
                raise no_such_row()
        return [deleted.get(text, row) for text, row in zip(texts, rows, strict=True)]

    async def satisfied(self, session: AnySession, key: KeyValue, *wheres: Where) -> list[bool]:
        """Which of these conditions the row meets as it is now."""
        if all(where is None for where in wheres):
            return [True] * len(wheres)
        cases = [literal(1) if where is None else case((where, 1), else_=0) for where in wheres]
        statement = select(*cases).select_from(self._table).where(self._key.condition)
        found = (await session.execute(statement, self._key.parameters(key))).one_or_none()
        return [bool(each) for each in found] if found is not None else [False] * len(wheres)

    def _given(self, statement: Any, data: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """The statement with what it writes, and its parameters.

        As parameters, SQLAlchemy knows the statement again; as values it would look all through it, for each row anew.
        """
        values = self._schema.for_database(data)
        if not values or any(isinstance(value, ClauseElement) for value in values.values()):
            return statement.values(values), {}
        return statement, values

    async def _if(
        self,
        session: AnySession,
        statement: Any,
        key: KeyValue,
        expected: Row | None,
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> Row:
        parameters = {**values, **self._key.parameters(key)}
        # Tested by the very statement that changes it: also a hook, or a trigger of the database's, may have changed the row.
        if expected is None or self._version is None:
            return await session.run_sync(self._one, statement, parameters)
        parameters[VERSION] = expected[self._version.name]
        found = (await session.execute(statement.where(self._same), parameters)).mappings().one_or_none()
        if found is None:
            raise changed()
        return self._row(found)

    def _one(self, session: Session, statement: Any, parameters: Mapping[str, Any]) -> Row:
        found = session.execute(statement, parameters).one_or_none()
        if found is None:
            raise no_such_row()
        return self._row(dict(zip(self._names, found, strict=True)))

    def _row(self, found: RowMapping | Row) -> Row:
        return self._schema.row_of(found)


def _insert_of(dialect: str) -> Any:
    # A dialect is much to import, and an app has need of its own alone.
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as of_postgresql

        return of_postgresql
    from sqlalchemy.dialects.sqlite import insert as of_sqlite

    return of_sqlite


def _returned(column: Column[Any]) -> ColumnElement[Any]:
    return _Real(column) if isinstance(bare_type(column.type), Float) else column


class _Real(FunctionElement[Any]):
    """A column of floats in RETURNING, where SQLite gives 2 for the 2.0 that a SELECT will give: another JSON, and another ETag.

    In SQL, since what a type decorator makes of one may be anything.
    """

    inherit_cache = True

    def __init__(self, column: Column[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_Real)
def _as_it_is(element: _Real, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses.clauses[0], **options)


@compiles(_Real, "sqlite")
def _as_real(element: _Real, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses.clauses[0], **options)} AS REAL)"
