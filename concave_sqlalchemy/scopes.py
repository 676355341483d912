"""Who may do what to which rows: SQL expressions by user, combined as expressions and never as text."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, and_, false
from sqlalchemy.exc import ArgumentError

from concave.errors import ConfigurationError

__all__ = [
    "ALLOW",
    "DENY",
    "OPEN",
    "Access",
    "Action",
    "Scope",
    "Scopes",
    "Verdict",
    "Where",
    "both",
    "is_denied",
]

Action: TypeAlias = Literal["read", "create", "update", "delete"]

Where: TypeAlias = ColumnElement[bool] | None
"""A condition on rows; None is every row."""

Access: TypeAlias = Mapping[Action, Where]
"""What one user may do: the rows of each action that was asked about."""


class Verdict(enum.Enum):
    """A scope that doesn't depend on the row."""

    ALLOW = enum.auto()
    DENY = enum.auto()


ALLOW: Final = Verdict.ALLOW
"""Every row."""
DENY: Final = Verdict.DENY
"""No row."""

Rule: TypeAlias = ColumnElement[bool] | Verdict
Scope: TypeAlias = Callable[[Any], Rule | Awaitable[Rule]] | Rule

OPEN: Final[Access] = {"read": None, "create": None, "update": None, "delete": None}
"""Without scopes a resource is as open as the app around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scopes:
    """Which rows a user may read, create, update and delete: ``Scopes(read=lambda user: Note.owner == user.id, …)``.

    Each is a function of the request's user (see `use_resource`), sync or async, that returns a SQLAlchemy expression over the
    table's columns, `ALLOW` or `DENY`; or one of these itself. Other tables are looked at in ``EXISTS`` or ``IN``. What is left out is
    `DENY`. They are asked before the transaction begins, once per request and action.

    A row outside of `read` isn't there: not in lists, counts or aggregates, and 404 by its key. To change a row it must be within
    `read` and `update` (404), and still be so afterwards (403, rolled back); to delete one, within `read` and `delete`. A new
    row must be within `create` (403); one that its maker may not read is answered with its key alone.
    """

    read: Scope = DENY
    create: Scope = DENY
    update: Scope = DENY
    delete: Scope = DENY

    async def of(self, user: Any, *actions: Action) -> Access:
        """What a user may do. Raises `ConfigurationError` for a scope that says neither yes nor no nor which rows."""
        return {action: _where(action, await _rule(getattr(self, action), user)) for action in actions}


def both(one: Where, other: Where) -> Where:
    """Rows that meet both conditions."""
    if one is None or other is None:
        return other if one is None else one
    return and_(one, other)


def is_denied(where: Where) -> bool:
    """Whether no row whatever can meet the condition."""
    return where is false()


async def _rule(scope: Any, user: Any) -> Any:
    if isinstance(scope, Verdict) or not callable(scope):
        return scope
    rule = scope(user)
    return await rule if inspect.isawaitable(rule) else rule


def _where(action: Action, rule: Any) -> Where:
    if isinstance(rule, Verdict):
        return None if rule is ALLOW else false()
    # A plain True is as likely the outcome of two values compared by mistake as what is meant.
    if rule is not None and not isinstance(rule, bool):
        try:
            return and_(rule)
        except ArgumentError:
            pass
    raise ConfigurationError(f"Scopes({action}=…) gives a SQLAlchemy expression, ALLOW or DENY, not {rule!r}")
