"""What a database refuses, as a problem that names no SQL; the log has it in full."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from sqlalchemy import CheckConstraint, Table
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    StatementError,
    TimeoutError as PoolTimeoutError,
)

from concave.hooks import call_hook
from concave.tasks.submission import submission
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.outages import busy, is_outage, passes, sqlstate, unreachable
from concave_sqlalchemy.problems import Problem, conflict

__all__ = ["ColumnNames", "database_errors", "is_given_up", "names_in"]

TRY_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, a lock that isn't waited for: nobody's mistake."""

ColumnNames: TypeAlias = Mapping[tuple[str, str], str]
"""What clients call the columns that they see, by table and column; and the table's checks, by table and name."""
NO_NAMES: Final[ColumnNames] = MappingProxyType({})

IN_SQLITE: Final = re.compile(r"(CHECK|NOT NULL) constraint failed: (\w+)(?:\.(\w+))?$")
"""A constraint by its name, or a table's column. A constraint without a name is told by its SQL, which is nobody's business."""

log = logging.getLogger("concave.resource")


def names_in(table: Table, told: Iterable[ResourceField]) -> ColumnNames:
    """What clients may be told of a table, and of its fields these."""
    columns = {(table.name, str(field.column.name)): field.name for field in told}
    checks = (each.name for each in table.constraints if isinstance(each, CheckConstraint))
    return columns | {(table.name, str(name)): str(name) for name in checks if name}


class database_errors:  # noqa: N801  used like a function, as those of contextlib are, which cost a request more than this
    """What a client is told of a database's errors.

    409 for a row that conflicts with others; 422 for a value that doesn't fit or breaks a rule of the table's, or what it is, `refused`,
    where values come from elsewhere than a body (None: from nobody but the app); 503 for a database that is busy, can't be reached, or
    chose this one of two that wait for each other. `names`: what clients may be told of the table.
    """

    __slots__ = ("_names", "_refused")

    def __init__(self, names: ColumnNames = NO_NAMES, *, refused: int | None = 422) -> None:
        self._names = names
        self._refused = refused

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and (problem := _problem_of(error, self._names, self._refused)) is not None:
            raise problem from error


def _problem_of(error: BaseException, names: ColumnNames, refused: int | None) -> Problem | None:
    """What a client is told of it; None for what is nothing of its doing."""
    if isinstance(error, Problem):
        return None  # told already; and the commonest, whose way needn't be looked through
    if isinstance(error, PoolTimeoutError):
        log.error("no connection became free: %s", error)
        return busy(again=not _is_of_hook(error))
    if is_outage(error):
        log.error("the database can't be reached: %s", getattr(error, "orig", None) or error)
        return unreachable(again=not _is_of_hook(error))
    if not isinstance(error, StatementError):
        return None
    if isinstance(error, IntegrityError):
        log.info("a constraint was violated: %s", error.orig)
        return _of_constraint(error, names)
    if isinstance(error, OperationalError):
        return busy() if "locked" in str(error.orig) else None
    if is_given_up(error):
        log.info("a transaction was given up by the database: %s", error.orig)
        return busy()
    if refused is None or not _is_about_a_value(error):
        return None
    if isinstance(error.orig, TypeError | AttributeError):
        if _is_of_hook(error) or passes(error.orig, "sqlalchemy.engine.default", "_process_execute_defaults"):
            return None  # a mistake in a hook, or in a column's default
        # It may be a mistake of the type's: so with a traceback.
        log.warning("a value was refused by its type", exc_info=error.orig)
    else:
        log.info("a value was refused by the database: %s", error.orig)
    return Problem(refused, "the database refuses a value")


def _is_of_hook(error: BaseException) -> bool:
    """Whether a hook met it: with another database, perhaps, where it has written. Nobody is told to try again for that."""
    in_hook = passes(error, call_hook.__module__, call_hook.__name__)
    return in_hook or passes(error, submission.__module__, submission.__name__)


def is_given_up(error: StatementError) -> bool:
    """Whether the database gave a transaction up for another one's sake: it may well succeed the next time."""
    return isinstance(error, DBAPIError) and sqlstate(error) in TRY_AGAIN


def _of_constraint(error: IntegrityError, names: ColumnNames) -> Problem:
    """Of a rule for one row that is the row's mistake, of one for several a conflict."""
    state, text = sqlstate(error), str(error.orig)
    in_sqlite = IN_SQLITE.search(text)
    if state == "23514" or "CHECK constraint failed" in text:
        name = in_sqlite[2] if in_sqlite else _told(error, "constraint_name")
        # A hook may have written another table's.
        tables = {table for table, _ in names}
        is_known = _told(error, "table_name") in tables or any((table, name) in names for table in tables)
        return Problem(
            422, f"the row violates the check {name!r}" if name and is_known else "the row violates a check"
        )
    if state == "23502" or "NOT NULL constraint failed" in text:
        table, column = (
            (in_sqlite[2], in_sqlite[3])
            if in_sqlite
            else (_told(error, "table_name"), _told(error, "column_name"))
        )
        if (field := names.get((str(table), str(column)))) is None:
            return Problem(422, "a value is missing that must not be null")
        errors = [{"field": field, "message": "must not be null"}]
        return Problem(422, f"not valid: {field}", errors=errors)
    return conflict()


def _told(error: DBAPIError, what: str) -> str | None:
    """What the driver has to say of it: psycopg in a diagnosis, asyncpg's own error by itself."""
    orig: Any = error.orig
    source = getattr(orig, "diag", None) or orig.__cause__
    found = getattr(source, what, None)
    return None if found is None else str(found)


def _is_about_a_value(error: StatementError) -> bool:
    """Whether it was sent and refused as data (SQLSTATE 22…), or could not even be sent as what its column holds."""
    if not isinstance(error, DBAPIError):
        return isinstance(error.orig, ValueError | OverflowError | TypeError | AttributeError)
    if sqlstate(error).startswith("22"):
        return True
    # asyncpg's own checks, before anything is sent.
    return isinstance(getattr(error.orig, "__cause__", None), ValueError)
