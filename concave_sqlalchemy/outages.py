"""Errors of a database that isn't there, or no longer: nobody's mistake, and over some time."""

from __future__ import annotations

from traceback import walk_tb
from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError

from concave_sqlalchemy.problems import Problem

__all__ = ["busy", "is_outage", "outcome_unknown", "passes", "sqlstate", "unreachable"]

AWAY: Final = frozenset({"57P01", "57P02", "57P03", "53300"})
"""PostgreSQL shuts down, has crashed, is starting up, or has no connection left."""
NOT_YET: Final = (
    "starting up",
    "shutting down",
    "recovery",
    "not yet accepting",
    "too many",
    "connection slots",
)
"""The same in words: psycopg has no SQLSTATE of a connection that wasn't made."""


def busy(*, again: bool = True) -> Problem:
    """503 for what others are in the way of. `again`: to be tried again, as whoever obeys that does blindly."""
    return Problem(503, "the database is busy", headers={"retry-after": "1"} if again else None)


def unreachable(*, again: bool = True) -> Problem:
    """503 for a database that can't be asked. `again`: as of `busy`."""
    return Problem(503, "the database can't be reached", headers={"retry-after": "1"} if again else None)


def outcome_unknown() -> Problem:
    """503 for a commit without an answer. It has no Retry-After: who obeys that blindly would write twice."""
    return Problem(
        503,
        "the connection to the database was lost while it committed: the write may have happened, or not",
        code="OUTCOME_UNKNOWN",
    )


def is_outage(error: BaseException) -> bool:
    """Whether a connection was refused or lost, and not a statement."""
    if isinstance(error, DBAPIError) and (error.connection_invalidated or sqlstate(error) in AWAY):
        return True
    # A hook's own calls may fail like this, too. Only those of the pool are made to connect to a database.
    if not passes(error, "sqlalchemy.pool.base"):
        return False
    if not isinstance(error, OperationalError | OSError):
        return getattr(error, "sqlstate", None) in AWAY  # asyncpg's own, which SQLAlchemy 2.0 lets through
    text = str(error)
    return "FATAL" not in text or any(words in text for words in NOT_YET)


def sqlstate(error: DBAPIError) -> str:
    """What PostgreSQL calls the error; nothing where it is another database's, or the driver's own."""
    orig = error.orig
    return str(getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None) or "")


def passes(error: BaseException, module: str, function: str | None = None) -> bool:
    """Whether an error came through a function of this module."""
    return any(
        frame.f_globals.get("__name__") == module and function in {None, frame.f_code.co_name}
        for frame, _ in walk_tb(error.__traceback__)
    )
