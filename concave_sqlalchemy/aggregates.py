"""``/aggregate``: counts, sums, averages, least and greatest values of rows, by groups."""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Float, Row, Select, Table, cast, func, select, types

from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.filters.values import Kind, kind_of
from concave_sqlalchemy.pagination.ordering import Term
from concave_sqlalchemy.pagination.request import flag, names
from concave_sqlalchemy.policy import Allowed
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.schema import RowSchema

__all__ = ["PARAMETERS", "Aggregates", "Wanted", "aggregable"]

FUNCTIONS: Final = ("sum", "avg", "min", "max")
PARAMETERS: Final = frozenset({"count", "filter", "groupBy", *FUNCTIONS})
MAX_GROUPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client wants to know: `values` are pairs of a function and a field's name."""

    group_by: list[str]
    count: bool
    values: dict[str, list[str]]


def aggregable(fields: Iterable[ResourceField]) -> Mapping[str, list[ResourceField]]:
    """Which of these fields are fit for which parameter."""
    kinds = [(field, kind_of(field)) for field in fields]
    numbers = [field for field, kind in kinds if kind is Kind.NUMBER]
    ordered = [field for field, kind in kinds if kind in {Kind.NUMBER, Kind.TEXT, Kind.MOMENT}]
    groups = [field for field, kind in kinds if kind is not Kind.OPAQUE]
    return {"groupBy": groups, "sum": numbers, "avg": numbers, "min": ordered, "max": ordered}


class Aggregates:
    """Aggregates of one table: sums and averages of numbers, least and greatest of numbers, texts, dates and times."""

    def __init__(self, table: Table, schema: RowSchema, allowed: Allowed, dialect: str) -> None:
        self._table = table
        self._schema = schema
        self._dialect = dialect
        self._groupable = {field.name: field for field in aggregable(allowed.filterable)["groupBy"]}
        fit = aggregable(allowed.readable)
        self._fields = {each: {field.name: field for field in fit[each]} for each in FUNCTIONS}

    def read(self, query: Mapping[str, str]) -> Wanted:
        """What query parameters ask for; 400 for a field that is unknown or not fit for it, and where nothing is asked."""
        wanted = Wanted(
            names("groupBy", query.get("groupBy"), self._groupable),
            flag("count", query.get("count")),
            {each: names(each, query.get(each), self._fields[each]) for each in FUNCTIONS if each in query},
        )
        if not (wanted.group_by or wanted.count or any(wanted.values.values())):
            raise Problem(400, f"there is nothing to aggregate: name one of {', '.join(sorted(PARAMETERS))}")
        return wanted

    def statement(self, wanted: Wanted, where: ColumnElement[bool] | None) -> Select[Any]:
        """Its groups in order: the keys, then the count, then each value, as `answer` takes them."""
        keys = [self._groupable[name] for name in wanted.group_by]
        columns: list[ColumnElement[Any]] = [field.column for field in keys]
        if wanted.count:
            columns.append(func.count())
        for function, fields in wanted.values.items():
            columns += [
                _aggregate(function, self._fields[function][name], dialect=self._dialect) for name in fields
            ]
        labelled = [column.label(f"concave_{at}") for at, column in enumerate(columns)]
        statement = select(*labelled).select_from(self._table)
        if where is not None:
            statement = statement.where(where)
        if keys:
            orders = [Term(field, descending=False, dialect=self._dialect).sort() for field in keys]
            statement = statement.group_by(*(field.column for field in keys)).order_by(*orders)
        return statement.limit(MAX_GROUPS + 1)

    def answer(self, wanted: Wanted, found: Sequence[Row[Any]]) -> dict[str, Any]:
        """``{"groups": [{"key", "count", "sum", "avg", "min", "max"}]}``. 400 for more groups than 1,000."""
        if len(found) > MAX_GROUPS:
            raise Problem(400, f"there are more than {MAX_GROUPS} groups; filter the rows")
        return {"groups": [self._group(wanted, row) for row in found]}

    def _group(self, wanted: Wanted, row: Row[Any]) -> dict[str, Any]:
        cells = iter(row)
        key = {name: next(cells) for name in wanted.group_by}
        group: dict[str, Any] = {"key": self._schema.shown(key) if wanted.group_by else None}
        if wanted.count:
            group["count"] = next(cells)
        for function, fields in wanted.values.items():
            values = {name: next(cells) for name in fields}
            if function in {"min", "max"}:
                group[function] = self._schema.shown(values)
            else:
                group[function] = {
                    name: self._number(function, name, value) for name, value in values.items()
                }
        return group

    def _number(self, function: str, name: str, value: Any) -> Any:
        if value is None or function == "avg":
            return value
        # The sum of big integers is a numeric in PostgreSQL.
        is_whole = isinstance(bare_type(self._fields["sum"][name].column.type), types.Integer)
        if is_whole and isinstance(value, str):
            high, _, low = value.partition(",")
            return (int(high) << 32) + int(low)
        if is_whole and isinstance(value, decimal.Decimal):
            return int(value)
        write = self._schema.written.get(name)
        return value if write is None else write(value)


def _aggregate(function: str, field: ResourceField, *, dialect: str) -> ColumnElement[Any]:
    column: ColumnElement[Any] = field.column
    bare = bare_type(column.type)
    match function:
        case "sum" if isinstance(bare, types.Integer) and dialect == "sqlite":
            # Its sum of integers fails beyond 64 bits. In halves of 32 it doesn't, and Python puts them together.
            halves = (func.sum(column.op(">>")(32)), func.sum(column.op("&")(2**32 - 1)))
            high, low = (cast(half, types.String()) for half in halves)
            return high.concat(",").concat(low)
        case "sum" if isinstance(bare, types.Integer):
            return func.sum(column, type_=types.NullType())
        case "sum":
            return func.sum(column)
        case "avg":
            # An average has as many digits as its database likes; as a float it is one number in both.
            return func.avg(cast(column, Float), type_=Float())
        case "min":
            return func.min(column)
        case _:
            return func.max(column)
