"""What a filter says, as data: comparisons, joined by AND and OR. Nothing here knows of columns or SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from concave_sqlalchemy.problems import Problem

__all__ = ["And", "Comparison", "Node", "Or", "Value", "filter_problem"]


@dataclass(frozen=True, slots=True)
class Value:
    """A value as it was written; a column gives it its type. `position` is where it begins, from 0, in the filter."""

    text: str
    position: int
    quoted: bool = False

    @property
    def is_null(self) -> bool:
        """Whether it is the word ``null``; ``"null"`` is a text of four letters."""
        return self.text == "null" and not self.quoted


@dataclass(frozen=True, slots=True)
class Comparison:
    """``field operator value``. `values` are several where a list was written, be it of one or none."""

    field: str
    operator: str
    values: tuple[Value, ...]
    is_list: bool
    position: int
    operator_position: int
    value_position: int


@dataclass(frozen=True, slots=True)
class And:
    """All of `parts`, which are two at least."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of `parts`, which are two at least."""

    parts: tuple[Node, ...]


Node: TypeAlias = Comparison | And | Or


def filter_problem(message: str, position: int) -> Problem:
    """400 for a filter that can't be read, with the position, from 0, of the character that it is about."""
    return Problem(
        400,
        f"the filter can't be read: {message}, at position {position}",
        code="FILTER_PARSE_ERROR",
        position=position,
        errors=[{"field": "filter", "message": message}],
    )
