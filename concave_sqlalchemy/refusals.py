"""What a database refuses, as a problem that names no SQL; the log has it in full."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, StatementError

from concave_sqlalchemy.problems import Problem, conflict

__all__ = ["database_errors", "is_given_up"]

TRY_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, a lock that isn't waited for: nobody's mistake."""

log = logging.getLogger("concave.resource")


@contextmanager
def database_errors() -> Generator[None]:
    """409 for a violated constraint, 422 for a value that doesn't fit, 503 for a database that is busy, or chose this one of two that wait for each other."""
    try:
        yield
    except IntegrityError as error:
        log.info("a constraint was violated: %s", error.orig)
        raise conflict() from error
    except OperationalError as error:
        if "locked" not in str(error.orig):
            raise
        raise Problem(503, "the database is busy", headers={"retry-after": "1"}) from error
    except StatementError as error:
        if is_given_up(error):
            log.info("a transaction was given up by the database: %s", error.orig)
            raise Problem(503, "the database is busy", headers={"retry-after": "1"}) from error
        if not _is_about_a_value(error):
            raise
        log.info("a value was refused by the database: %s", error.orig)
        raise Problem(422, "the database refuses a value") from error


def is_given_up(error: StatementError) -> bool:
    """Whether the database gave a transaction up for another one's sake: it may well succeed the next time."""
    return _sqlstate(error) in TRY_AGAIN


def _is_about_a_value(error: StatementError) -> bool:
    """Whether it was sent and refused as data (SQLSTATE 22…), or could not even be sent as what its column holds."""
    if not isinstance(error, DBAPIError):
        return isinstance(error.orig, ValueError | OverflowError)
    if _sqlstate(error).startswith("22"):
        return True
    # asyncpg's own checks, before anything is sent.
    return isinstance(getattr(error.orig, "__cause__", None), ValueError)


def _sqlstate(error: StatementError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
