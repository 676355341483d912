"""What a database refuses, as a problem that names no SQL; the log has it in full."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, StatementError

from concave_sqlalchemy.problems import Problem, conflict

__all__ = ["database_errors", "is_given_up"]

TRY_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, a lock that isn't waited for: nobody's mistake."""

log = logging.getLogger("concave.resource")


class database_errors:  # noqa: N801  used like a function, as those of contextlib are, which cost a request more than this
    """409 for a violated constraint, 503 for a database that is busy, or chose this one of two that wait for each other; for a value that
    doesn't fit 422, or what it is where values come from elsewhere than a body.
    """

    __slots__ = ("_refused",)

    def __init__(self, refused: int = 422) -> None:
        self._refused = refused

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StatementError) and (problem := _problem_of(error, self._refused)) is not None:
            raise problem from error


def _problem_of(error: StatementError, refused: int) -> Problem | None:
    """What a client is told of it; None for what is nothing of its doing."""
    if isinstance(error, IntegrityError):
        log.info("a constraint was violated: %s", error.orig)
        return conflict()
    if isinstance(error, OperationalError):
        is_busy = "locked" in str(error.orig)
        return Problem(503, "the database is busy", headers={"retry-after": "1"}) if is_busy else None
    if is_given_up(error):
        log.info("a transaction was given up by the database: %s", error.orig)
        return Problem(503, "the database is busy", headers={"retry-after": "1"})
    if not _is_about_a_value(error):
        return None
    if isinstance(error.orig, TypeError | AttributeError):
        log.warning("a value was refused by its type", exc_info=error)  # it may be a mistake of the type's
    else:
        log.info("a value was refused by the database: %s", error.orig)
    return Problem(refused, "the database refuses a value")


def is_given_up(error: StatementError) -> bool:
    """Whether the database gave a transaction up for another one's sake: it may well succeed the next time."""
    return _sqlstate(error) in TRY_AGAIN


def _is_about_a_value(error: StatementError) -> bool:
    """Whether it was sent and refused as data (SQLSTATE 22…), or could not even be sent as what its column holds."""
    if not isinstance(error, DBAPIError):
        return isinstance(error.orig, ValueError | OverflowError | TypeError | AttributeError)
    if _sqlstate(error).startswith("22"):
        return True
    # asyncpg's own checks, before anything is sent.
    return isinstance(getattr(error.orig, "__cause__", None), ValueError)


def _sqlstate(error: StatementError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
