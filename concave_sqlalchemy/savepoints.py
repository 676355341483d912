"""What is done within a session's savepoints, and goes with the one that is rolled back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

__all__ = ["Savepoints", "rolled_back", "transactions_of"]


def transactions_of(session: Session) -> list[SessionTransaction]:
    """The transaction that a session is in, innermost first."""
    found: list[SessionTransaction] = []
    at = session.get_nested_transaction() or session.get_transaction()
    while at is not None:
        found.append(at)
        at = at.parent
    return found


def rolled_back(transaction: SessionTransaction) -> SessionTransaction:
    """What is rolled back where SQLAlchemy says that this is: a flush that fails takes the savepoint along that it was in."""
    while not transaction.nested and transaction.parent is not None:
        transaction = transaction.parent
    return transaction


class Savepoints:
    """Takes out of lists what was put into them within a savepoint that is rolled back."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._noted: list[tuple[list[SessionTransaction], list[Any], Any]] = []
        event.listen(session, "after_soft_rollback", self._rolled_back)

    def note(self, kept: list[Any], one: Any) -> None:
        """This was just put into that list."""
        self._noted.append((transactions_of(self._session), kept, one))

    def close(self) -> None:
        """The transaction is over."""
        event.remove(self._session, "after_soft_rollback", self._rolled_back)

    def _rolled_back(self, _session: Session, transaction: SessionTransaction) -> None:
        ended = rolled_back(transaction)
        left = [each for each in self._noted if ended not in each[0]]
        # From the end: one callback may have been given both before the savepoint and in it.
        for around, kept, one in reversed(self._noted):
            if ended in around:
                del kept[max(at for at, each in enumerate(kept) if each is one)]
        self._noted = left
