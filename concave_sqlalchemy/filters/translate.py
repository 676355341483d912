"""What a filter says → a SQLAlchemy expression, with every value typed by its column and bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.filters.comparing import Operand
from concave_sqlalchemy.filters.operators import Arity, Given, Operator
from concave_sqlalchemy.filters.parser import parse
from concave_sqlalchemy.filters.syntax import And, Comparison, Node, Value, filter_problem
from concave_sqlalchemy.filters.values import Kind, reader_of

__all__ = ["Filters"]


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """What a resource can be filtered by: fields, operators, and the database that answers."""

    operands: Mapping[str, Operand]
    readers: Mapping[str, Callable[[str], Any]]
    operators: Mapping[str, Operator]

    @classmethod
    def of(cls, fields: Iterable[ResourceField], dialect: str, operators: Mapping[str, Operator]) -> Filters:
        """Filters by these fields, with these operators (see `with_operators`)."""
        every = list(fields)
        return cls(
            {field.name: Operand.of(field, dialect) for field in every},
            {field.name: reader_of(field) for field in every},
            operators,
        )

    def where(self, text: str) -> ColumnElement[bool] | None:
        """The expression that a filter stands for; None where it is empty.

        Never true of a row that has NULL there, but for tests of NULL itself. Raises `Problem` 400 with the position, for what
        can't be read, isn't a filterable field, or doesn't fit it.
        """
        node = parse(text)
        return None if node is None else self._expression(node)

    def _expression(self, node: Node) -> ColumnElement[bool]:
        if isinstance(node, Comparison):
            return self._comparison(node)
        join = and_ if isinstance(node, And) else or_
        return join(*map(self._expression, node.parts))

    def _comparison(self, node: Comparison) -> ColumnElement[bool]:
        operand = self.operands.get(node.field)
        if operand is None:
            # The same for what isn't there and for what may not be seen.
            raise filter_problem(f"there is no field {node.field!r} to filter by", node.position)
        operator = self.operators.get(node.operator)
        if operator is None:
            raise filter_problem(f"there is no operator {node.operator!r}", node.operator_position)
        _check_arity(node, operator)
        given = [value for value in node.values if not (operator.takes_null and value.is_null)]
        has_null = len(given) < len(node.values)
        if operand.kind not in operator.kinds and not (has_null and not given):
            kinds = " or ".join(kind.value for kind in Kind if kind in operator.kinds)
            raise filter_problem(
                f"{node.operator!r} is for {kinds}, and {node.field!r} is {operand.kind.value}",
                node.operator_position,
            )
        read = operator.read or self.readers[node.field]
        values = [_read(read, value, node) for value in given]
        try:
            return operator.build(operand, Given(values, has_null))
        except ValueError as error:
            raise filter_problem(str(error), node.value_position) from error


def _check_arity(node: Comparison, operator: Operator) -> None:
    count = len(node.values)
    if operator.arity is Arity.ONE and node.is_list:
        raise filter_problem(f"{node.operator!r} takes one value, not a list", node.value_position)
    if operator.arity is Arity.PAIR and count != 2:
        raise filter_problem(f"{node.operator!r} takes two values, as in [1,2]", node.value_position)


def _read(read: Callable[[str], Any], value: Value, node: Comparison) -> Any:
    if value.is_null:
        raise filter_problem(f"{node.operator!r} takes no null; =isnull= asks for it", value.position)
    try:
        return read(value.text)
    except ValueError as error:
        raise filter_problem(f"{node.field!r}: {error}", value.position) from None
