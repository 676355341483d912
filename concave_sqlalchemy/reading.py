"""What can be read of a table: one row, a page, a count, aggregates. Each may be confined by a WHERE expression of the caller's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import ColumnElement, Enum, Integer, Row, Select, String, Table, func, select
from sqlalchemy.types import TypeEngine

from concave_sqlalchemy.aggregates import Aggregates
from concave_sqlalchemy.etags import Tags
from concave_sqlalchemy.filters import FilterOperator, Filters
from concave_sqlalchemy.filters.operators import with_operators
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.pagination.cursors import Cursors
from concave_sqlalchemy.pagination.keyset import PageStatement, page_statement, parameters
from concave_sqlalchemy.pagination.ordering import Ordering, Orders, named
from concave_sqlalchemy.pagination.request import PageRequest, names
from concave_sqlalchemy.policy import Allowed
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.refusals import database_errors
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.scopes import Where, both
from concave_sqlalchemy.transactions import Transactions

__all__ = ["Reading"]

KEPT_STATEMENTS: Final = 64


class Reading:
    """A resource's reading side. Statements are built once where nothing of a request is in them but values."""

    def __init__(
        self,
        table: Table,
        schema: RowSchema,
        *,
        allowed: Allowed,
        transactions: Transactions,
        cursors: Cursors,
        operators: Mapping[str, FilterOperator],
    ) -> None:
        self._table = table
        self._schema = schema
        self._allowed = allowed
        self._transactions = transactions
        self._cursors = cursors
        self._operators = with_operators(operators)
        self._readable = {field.name: field for field in allowed.readable}
        self._version = allowed.version
        self._count = select(func.count()).select_from(table)
        self._plain = frozenset(
            name for name, field in self._readable.items() if _is_plain(field.column.type)
        )
        self._pages: OrderedDict[Any, PageStatement] = OrderedDict()

    # Which database answers is known once there is a session: an engine may be bound after the resource is made.

    @cached_property
    def _one_whole(self) -> Select[Any]:
        return self._one(tuple(self._readable))

    @cached_property
    def _filters(self) -> Filters:
        return Filters.of(self._allowed.filterable, self._transactions.dialect, self._operators)

    @cached_property
    def _orders(self) -> Orders:
        return Orders.of(self._allowed.sortable, self._schema.key, self._transactions.dialect)

    @cached_property
    def _aggregates(self) -> Aggregates:
        return Aggregates(self._table, self._schema, self._allowed, self._transactions.dialect)

    def where(self, filter: str) -> Where:
        """The expression that a filter stands for, None where it is empty. Raises `Problem` 400 where it can't be read."""
        return self._filters.where(filter)

    async def get(
        self, key: KeyValue, *, chosen: str | None = None, where: Where = None
    ) -> tuple[bytes, str]:
        """One row as JSON, and its ETag; 404 where there is none, or none within `where`."""
        shown = self._chosen(chosen)
        statement = self._one_whole if chosen is None else self._one(shown)
        if where is not None:
            statement = statement.where(where)
        with database_errors():
            async with self._transactions.reading() as session:
                row = (await session.execute(statement, self._schema.key.parameters(key))).one_or_none()
        if row is None:
            raise Problem(404, "there is no such row")
        whole = self._row(row, tuple(self._readable) if self._version is None else shown)
        if self._version is not None:
            return self._schema.to_json(whole), Tags.of_version(row[-1])
        body = self._schema.to_json(whole)
        tag = Tags.of_shown(body)
        return (body if chosen is None else self._schema.to_json({name: whole[name] for name in shown})), tag

    async def page(self, wanted: PageRequest, *, where: Where = None) -> bytes:
        """A page of rows within `where`, as JSON."""
        shown = self._chosen(wanted.select)
        ordering = self._orders.read(wanted.order_by)
        confined = both(where, self.where(wanted.filter))
        # Not the scope: it is applied to each page anew, and may well move with time.
        listed = (named(ordering), wanted.filter)
        after = None if wanted.cursor is None else self._cursors.read(wanted.cursor, listed=listed)
        page = self._page(shown, ordering, after, confined)
        with database_errors():
            async with self._transactions.reading() as session:
                found = (await session.execute(page.statement, parameters(wanted.limit + 1, after))).all()
                total = await self._counted(session, confined) if wanted.total_count else None
        rows = found[: wanted.limit]
        has_more = len(found) > wanted.limit
        cursor = self._cursors.write([rows[-1][at] for at in page.place], listed=listed) if has_more else None
        answer = {
            "items": [self._row(row, shown) for row in rows], "nextCursor": cursor, "hasMore": has_more,
        }  # fmt: skip
        return self._schema.page_to_json(answer if total is None else {**answer, "totalCount": total})

    async def count(self, filter: str = "", *, where: Where = None) -> int:
        """How many rows match a filter, within `where`."""
        confined = both(where, self.where(filter))
        with database_errors():
            async with self._transactions.reading() as session:
                return await self._counted(session, confined)

    async def aggregate(self, query: Mapping[str, str], *, where: Where = None) -> bytes:
        """Groups of the rows that match the query's filter, within `where`, as JSON (see `Aggregates`)."""
        wanted = self._aggregates.read(query)
        confined = both(where, self.where(query.get("filter", "")))
        with database_errors():
            async with self._transactions.reading() as session:
                found = (await session.execute(self._aggregates.statement(wanted, confined))).all()
        return to_json(self._aggregates.answer(wanted, found), inf_nan_mode="null")

    async def _counted(self, session: Any, where: Where) -> int:
        statement = self._count if where is None else self._count.where(where)
        return int((await session.execute(statement)).scalar_one())

    def _chosen(self, text: str | None) -> tuple[str, ...]:
        """The fields to show: those that `select` names, or all that are readable."""
        return tuple(names("select", text, self._readable)) or tuple(self._readable)

    def _one(self, shown: Sequence[str]) -> Select[Any]:
        """One row with what it takes to tag it: its version, or everything that clients may see."""
        if self._version is None:
            columns = self._columns(tuple(self._readable))
        else:
            columns = [*self._columns(shown), self._version.column.label("concave_version")]
        return select(*columns).where(self._schema.key.condition)

    def _columns(self, shown: Sequence[str]) -> list[ColumnElement[Any]]:
        return [self._readable[name].column.label(name) for name in shown]

    def _page(
        self, shown: tuple[str, ...], ordering: Ordering, after: Sequence[Any] | None, where: Where
    ) -> PageStatement:
        nulls = None if after is None else tuple(value is None for value in after)
        shape = (shown, named(ordering), nulls)
        if where is None and (kept := self._pages.get(shape)) is not None:
            return kept
        same = [
            shown.index(term.field.name)
            if term.field.name in shown and term.field.name in self._plain
            else None
            for term in ordering
        ]
        made = page_statement(self._columns(shown), ordering, nulls=nulls, where=where, shown=same)
        if where is None:
            self._pages[shape] = made
            if len(self._pages) > KEPT_STATEMENTS:
                self._pages.popitem(last=False)
        return made

    def _row(self, row: Row[Any], shown: Sequence[str]) -> dict[str, Any]:
        return self._schema.row_of(dict(zip(shown, row, strict=False)))


def _is_plain(kind: TypeEngine[Any]) -> bool:
    """Whether a value is shown just as every database holds it."""
    return isinstance(kind, Integer | String) and not isinstance(kind, Enum)
