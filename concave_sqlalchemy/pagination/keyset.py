"""A page's statement: it begins right after a row, at whatever depth, by index and not by counting.

Where every field goes one way and none can be NULL, that is one comparison of rows, ``(a, id) > (:a, :id)``. Otherwise ``a > :a OR (a =
:a AND …)`` would say it, and neither database finds the place by such an OR: so each alternative is a statement of its own over one
stretch of the index, with the page's limit, and their union is put in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    bindparam,
    select,
    tuple_,
    union_all,
)

from concave_sqlalchemy.pagination.ordering import Ordering, Term

__all__ = ["PageStatement", "page_statement", "parameters"]

LIMIT = "concave_limit"


class PageStatement(NamedTuple):
    """A statement, and where in its rows the place of a row stands: what the next page begins after."""

    statement: Select[Any]
    place: tuple[int, ...]


class _Stretch(NamedTuple):
    """Rows that lie side by side in the index: what they have in common, and what is left to order them."""

    conditions: list[ColumnElement[bool]]
    sorts: list[ColumnElement[Any]]


def page_statement(
    columns: Sequence[ColumnElement[Any]],
    ordering: Ordering,
    *,
    nulls: Sequence[bool] | None,
    where: ColumnElement[bool] | None,
    shown: Sequence[int | None],
) -> PageStatement:
    """The statement of one page, with `parameters` to be given.

    `nulls`: which of the values are NULL in the row that it begins after; None for the first page. `shown`: for each field of the
    order, which of `columns` is the very same value, if one is.
    """
    stretches = [_whole(ordering)] if nulls is None else list(_stretches(ordering, nulls))
    alone = len(stretches) == 1
    place = [at if alone else None for at in shown]
    extra = [term.stored for term, at in zip(ordering, place, strict=True) if at is None]
    every = [*columns, *(column.label(f"concave_place_{at}") for at, column in enumerate(extra))]
    following = iter(range(len(columns), len(every)))
    positions = tuple(next(following) if at is None else at for at in place)
    selects = [_select(every, stretch, where) for stretch in stretches]
    if alone:
        return PageStatement(selects[0], positions)
    union = union_all(*(select(each.subquery()) for each in selects)).subquery()
    found = list(union.c)
    sorts = [term.sort(found[at]) for term, at in zip(ordering, positions, strict=True)]
    return PageStatement(select(*found).order_by(*sorts).limit(bindparam(LIMIT, type_=Integer)), positions)


def parameters(limit: int, after: Sequence[Any] | None) -> dict[str, Any]:
    """What a `page_statement` is executed with."""
    given = {_name(at): value for at, value in enumerate(after or ()) if value is not None}
    return {LIMIT: limit, **given}


def _select(
    columns: Sequence[ColumnElement[Any]], stretch: _Stretch, where: ColumnElement[bool] | None
) -> Select[Any]:
    statement = select(*columns).where(*stretch.conditions).order_by(*stretch.sorts)
    if where is not None:
        statement = statement.where(where)
    return statement.limit(bindparam(LIMIT, type_=Integer))


def _whole(ordering: Ordering) -> _Stretch:
    return _Stretch([], [term.sort() for term in ordering])


def _stretches(ordering: Ordering, nulls: Sequence[bool]) -> Iterator[_Stretch]:
    """Everything after a row, nearest first: where all but the last fields are as in it, then ever fewer."""
    tail = _start_of_tail(ordering)
    yield _Stretch(
        [*_same(ordering[:tail], nulls), _rows_after(ordering, tail)],
        [term.sort() for term in ordering[tail:]],
    )
    for at in reversed(range(tail)):
        same, rest = _same(ordering[:at], nulls), [term.sort() for term in ordering[at + 1 :]]
        # NULL on its own and values on their own are in an index's plain order. (NULL throughout is in any, but with less said
        # PostgreSQL might look for NULLs in an index of the rest.)
        sorts = [ordering[at].sort_without_null(), *rest]
        for condition in _after(ordering[at], _parameter(ordering, at), is_null=nulls[at]):
            yield _Stretch([*same, condition], sorts)


def _start_of_tail(ordering: Ordering) -> int:
    """From where on all fields go one way, without NULL."""
    start = len(ordering) - 1  # the key, which is never NULL
    while (
        start
        and not ordering[start - 1].nullable
        and ordering[start - 1].descending == ordering[-1].descending
    ):
        start -= 1
    return start


def _rows_after(ordering: Ordering, start: int) -> ColumnElement[bool]:
    columns: list[Any] = [term.comparable for term in ordering[start:]]
    values: list[Any] = [_parameter(ordering, at) for at in range(start, len(ordering))]
    left, right = (columns[0], values[0]) if len(columns) == 1 else (tuple_(*columns), tuple_(*values))
    condition: ColumnElement[bool] = left < right if ordering[-1].descending else left > right
    return condition


def _same(terms: Sequence[Term], nulls: Sequence[bool]) -> list[ColumnElement[bool]]:
    return [
        term.field.column.is_(None) if is_null else term.comparable == _parameter(terms, at)
        for at, (term, is_null) in enumerate(zip(terms, nulls, strict=False))
    ]


def _after(term: Term, value: ColumnElement[Any], *, is_null: bool) -> Iterator[ColumnElement[bool]]:
    """The stretches of one field after a value. NULL is the greatest."""
    if term.descending:
        yield term.field.column.is_not(None) if is_null else term.comparable < value
    elif not is_null:
        yield term.comparable > value
        if term.nullable:
            yield term.field.column.is_(None)


def _parameter(terms: Sequence[Term], at: int) -> ColumnElement[Any]:
    return bindparam(_name(at), type_=terms[at].comparable.type)


def _name(at: int) -> str:
    return f"concave_after_{at}"
