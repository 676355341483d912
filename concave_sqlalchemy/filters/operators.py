"""The operators of filters: what each takes, which columns it is for, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, and_, not_, or_

from concave.errors import ConfigurationError
from concave_sqlalchemy.filters.comparing import (
    Operand,
    Order,
    among,
    compared,
    equal_ignoring_case,
    has_length,
    is_empty,
    is_missing,
    like,
)
from concave_sqlalchemy.filters.parser import OPERATOR
from concave_sqlalchemy.filters.patterns import Pattern, contains, ends_with, from_like, starts_with
from concave_sqlalchemy.filters.values import Kind, read_flag, read_length

__all__ = ["BUILT_IN", "Arity", "FilterOperator", "Given", "Operator", "with_operators"]


class Arity(Enum):
    """How many values an operator takes."""

    ONE = auto()
    PAIR = auto()
    MANY = auto()


class Given(NamedTuple):
    """The values of a comparison, each read; and whether ``null`` was among them, which is none of them."""

    values: Sequence[Any]
    has_null: bool


class Operator(NamedTuple):
    """What an operator takes and makes."""

    arity: Arity
    kinds: frozenset[Kind]
    build: Callable[[Operand, Given], ColumnElement[bool]]
    read: Callable[[str], Any] | None = None
    """How a value is read; by the column's type where it is None."""
    takes_null: bool = False


@dataclass(frozen=True, slots=True)
class FilterOperator:
    """An operator of an application's own: ``use_resource(…, operators={"=has=": FilterOperator(lambda column, value: …)})``.

    `build` gets the column and the value, and returns a SQLAlchemy expression; what it raises as ``ValueError`` is shown to the
    client. `value`: the type that the value is read as, by Pydantic; by default the column's. `many`: a list of them is taken.
    """

    build: Callable[[ColumnElement[Any], Any], ColumnElement[bool]]
    value: Any = None
    many: bool = False


ANY_KIND = frozenset(Kind)
EQUAL_KINDS = ANY_KIND - {Kind.OPAQUE}
ORDER_KINDS = EQUAL_KINDS - {Kind.CHOICE}
TEXT = frozenset({Kind.TEXT})


def with_operators(own: Mapping[str, FilterOperator]) -> Mapping[str, Operator]:
    """The built-in operators and an application's, which replace those of the same name.

    Raises `ConfigurationError` for a name that no filter could hold.
    """
    for name in own:
        if OPERATOR.fullmatch(name) is None:
            raise ConfigurationError(f"a filter operator is named like =near=, not {name!r}")
    return {**BUILT_IN, **{name: _own(operator) for name, operator in own.items()}}


def _own(operator: FilterOperator) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        return operator.build(operand.column, list(given.values) if operator.many else given.values[0])

    return Operator(
        Arity.MANY if operator.many else Arity.ONE,
        ANY_KIND,
        build,
        read=None if operator.value is None else partial(_validated, TypeAdapter(operator.value)),
    )


def _validated(adapter: TypeAdapter[Any], text: str) -> Any:
    try:
        return adapter.validate_strings(text)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False, include_context=False)[0]["msg"]) from None


def _comparison(order: Order) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        if given.has_null:
            missing = is_missing(operand)
            return missing if order == "==" else not_(missing)
        return compared(operand, order, given.values[0])

    is_equality = order in {"==", "!="}
    # Any column may be compared with null, also one that can be compared with nothing else (see `translate`).
    return Operator(Arity.ONE, EQUAL_KINDS if is_equality else ORDER_KINDS, build, takes_null=is_equality)


def _between(*, negated: bool) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        low, high = given.values
        if negated:
            return or_(compared(operand, "<", low), compared(operand, ">", high))
        return and_(compared(operand, ">=", low), compared(operand, "<=", high))

    return Operator(Arity.PAIR, ORDER_KINDS, build)


def _among(*, negated: bool) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        return among(operand, given.values, has_null=given.has_null, negated=negated)

    return Operator(Arity.MANY, EQUAL_KINDS, build, takes_null=True)


def _like(pattern: Callable[[str], Pattern], *, ignore_case: bool = False, negated: bool = False) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        return like(operand, pattern(given.values[0]), ignore_case=ignore_case, negated=negated)

    return Operator(Arity.ONE, TEXT, build, read=str)


def _ignoring_case(*, negated: bool) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        return equal_ignoring_case(operand, given.values[0], negated=negated)

    return Operator(Arity.ONE, TEXT, build, read=str)


def _length(order: Order) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        return has_length(operand, order, given.values[0])

    return Operator(Arity.ONE, TEXT, build, read=read_length)


def _is(condition: Callable[[Operand], ColumnElement[bool]]) -> Operator:
    def build(operand: Operand, given: Given) -> ColumnElement[bool]:
        return condition(operand) if given.values[0] else not_(condition(operand))

    return Operator(Arity.ONE, ANY_KIND, build, read=read_flag)


BUILT_IN: Mapping[str, Operator] = {
    "==": _comparison("=="),
    "!=": _comparison("!="),
    ">": _comparison(">"),
    ">=": _comparison(">="),
    "<": _comparison("<"),
    "<=": _comparison("<="),
    "=gt=": _comparison(">"),
    "=ge=": _comparison(">="),
    "=lt=": _comparison("<"),
    "=le=": _comparison("<="),
    "=in=": _among(negated=False),
    "=out=": _among(negated=True),
    "=between=": _between(negated=False),
    "=nbetween=": _between(negated=True),
    "%=": _like(from_like),
    "!%=": _like(from_like, negated=True),
    "=ilike=": _like(from_like, ignore_case=True),
    "=nilike=": _like(from_like, ignore_case=True, negated=True),
    "=contains=": _like(contains),
    "=icontains=": _like(contains, ignore_case=True),
    "=startswith=": _like(starts_with),
    "=istartswith=": _like(starts_with, ignore_case=True),
    "=endswith=": _like(ends_with),
    "=iendswith=": _like(ends_with, ignore_case=True),
    "=ieq=": _ignoring_case(negated=False),
    "=ine=": _ignoring_case(negated=True),
    "=isnull=": _is(is_missing),
    "=isempty=": _is(is_empty),
    "=length=": _length("=="),
    "=minlength=": _length(">="),
    "=maxlength=": _length("<="),
}
