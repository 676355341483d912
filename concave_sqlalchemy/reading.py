"""What can be read of a table: one row, a page, a count, aggregates. Each may be confined by a WHERE expression of the caller's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import ColumnElement, Enum, Integer, Row, Select, String, Table, TypeDecorator, func, select
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from concave.shown import as_json
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
from concave_sqlalchemy.presenting import Presenter, presenter
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
        self._ones: OrderedDict[tuple[str, ...], Select[Any]] = OrderedDict()
        self._pages: OrderedDict[Any, PageStatement] = OrderedDict()
        self._presenters: OrderedDict[tuple[str, ...], Presenter] = OrderedDict()

    # Which database answers is known once there is a session: an engine may be bound after the resource is made.

    @cached_property
    def _filters(self) -> Filters:
        return Filters.of(self._allowed.filterable, self._transactions.dialect, self._operators)

    @cached_property
    def _orders(self) -> Orders:
        return Orders.of(self._allowed.sortable, self._schema.key, self._transactions.dialect)

    @cached_property
    def _aggregates(self) -> Aggregates:
        return Aggregates(self._table, self._schema, self._allowed, self._transactions.dialect)

    @cached_property
    def _zoned(self) -> Collection[str]:
        zoned = self._schema.zoned
        if self._transactions.driver != "asyncpg":
            return zoned
        # Its moments are in UTC, but for what a decorator makes of them.
        return [
            field.name
            for field in self._allowed.readable
            if field.name in zoned and isinstance(field.column.type, TypeDecorator)
        ]

    def where(self, filter: str) -> Where:
        """The expression that a filter stands for, None where it is empty. Raises `Problem` 400 where it can't be read."""
        return self._filters.where(filter)

    async def get(
        self, key: KeyValue, *, chosen: str | None = None, where: Where = None
    ) -> tuple[bytes, str]:
        """One row as JSON, and its ETag; 404 where there is none, or none within `where`."""
        shown = self._chosen(chosen)
        statement = self._one(shown)
        if where is not None:
            statement = statement.where(where)
        given = self._schema.key.parameters(key)
        with database_errors():
            row = await self._transactions.read(
                lambda session: session.execute(statement, given).one_or_none()
            )
        if row is None:
            raise Problem(404, "there is no such row")
        if self._version is not None:
            return as_json(self._presented(shown)(row)), Tags.of_version(row[-1])
        whole = self._presented(tuple(self._readable))(row)
        body = as_json(whole)
        tag = Tags.of_shown(body)
        return (body if chosen is None else as_json({name: whole[name] for name in shown})), tag

    async def page(self, wanted: PageRequest, *, where: Where = None) -> bytes:
        """A page of rows within `where`, as JSON."""
        shown = self._chosen(wanted.select)
        ordering = self._orders.read(wanted.order_by)
        confined = both(where, self.where(wanted.filter))
        # Not the scope: it is applied to each page anew, and may well move with time.
        listed = (named(ordering), wanted.filter)
        after = None if wanted.cursor is None else self._cursors.read(wanted.cursor, listed=listed)
        page = self._page(shown, ordering, after, confined)
        given = parameters(wanted.limit + 1, after)

        def read(session: Session) -> tuple[Sequence[Row[Any]], int | None]:
            rows = session.execute(page.statement, given).all()
            return rows, self._counted(session, confined) if wanted.total_count else None

        with database_errors(refused=400 if wanted.filter or after else None):
            found, total = await self._transactions.read(read)
        rows = found[: wanted.limit]
        has_more = len(found) > wanted.limit
        cursor = self._cursors.write([rows[-1][at] for at in page.place], listed=listed) if has_more else None
        answer: dict[str, Any] = {
            "items": list(map(self._presented(shown), rows)), "nextCursor": cursor, "hasMore": has_more,
        }  # fmt: skip
        return as_json(answer if total is None else {**answer, "totalCount": total})

    async def count(self, filter: str = "", *, where: Where = None) -> int:
        """How many rows match a filter, within `where`."""
        confined = both(where, self.where(filter))
        with database_errors(refused=400 if filter else None):
            return await self._transactions.read(lambda session: self._counted(session, confined))

    async def aggregate(self, query: Mapping[str, str], *, where: Where = None) -> bytes:
        """Groups of the rows that match the query's filter, within `where`, as JSON (see `Aggregates`)."""
        wanted = self._aggregates.read(query)
        confined = both(where, self.where(query.get("filter", "")))
        statement = self._aggregates.statement(wanted, confined)
        with database_errors(refused=400 if query.get("filter") else None):
            found = await self._transactions.read(lambda session: session.execute(statement).all())
        return to_json(self._aggregates.answer(wanted, found), inf_nan_mode="null")

    def _counted(self, session: Session, where: Where) -> int:
        statement = self._count if where is None else self._count.where(where)
        return int(session.execute(statement).scalar_one())

    def _chosen(self, text: str | None) -> tuple[str, ...]:
        """The fields to show: those that `select` names, or all that are readable."""
        return tuple(names("select", text, self._readable)) or tuple(self._readable)

    def _columns(self, shown: Sequence[str]) -> list[ColumnElement[Any]]:
        return [self._readable[name].column.label(name) for name in shown]

    def _one(self, shown: tuple[str, ...]) -> Select[Any]:
        """One row with what it takes to tag it: its version, or everything that clients may see."""
        kept = self._ones.get(shown)
        if kept is not None:
            return kept
        if self._version is None:
            columns = self._columns(tuple(self._readable))
        else:
            columns = [*self._columns(shown), self._version.column.label("concave_version")]
        made = select(*columns).where(self._schema.key.condition)
        _keep(self._ones, shown, made)
        return made

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
            _keep(self._pages, shape, made)
        return made

    def _presented(self, shown: tuple[str, ...]) -> Presenter:
        kept = self._presenters.get(shown)
        if kept is None:
            kept = presenter(shown, zoned=self._zoned, written=self._schema.written)
            _keep(self._presenters, shown, kept)
        return kept


def _keep(statements: OrderedDict[Any, Any], shape: Any, statement: Any) -> None:
    """Keep a statement for the next request of the same shape, and the oldest no longer: clients choose the shapes."""
    statements[shape] = statement
    if len(statements) > KEPT_STATEMENTS:
        statements.popitem(last=False)


def _is_plain(kind: TypeEngine[Any]) -> bool:
    """Whether a value is shown just as every database holds it."""
    return isinstance(kind, Integer | String) and not isinstance(kind, Enum)
