"""From a session's first flush to the end of its transaction: hooks are called, and what they enqueue commits with the rows."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import async_session
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from concave.hooks import HookContext, call_hook
from concave_sqlalchemy.enqueue import relay_at_the_end
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.relay import Submission, into
from concave_sqlalchemy.savepoints import rolled_back, transactions_of
from concave_sqlalchemy.tracking.changes import Change, Flush, TrackedClass

__all__ = ["Unit"]

log = logging.getLogger("concave.resource")

MAX_DEPTH = 16
"""Hooks that write rows whose hooks write rows: deeper than this, it doesn't end."""


class Unit:
    """What a transaction of a session has yet to do.

    Tasks are written at the end of each flush, and before a commit. Since a savepoint begins with a flush and ends with a commit or
    a rollback, those that wait always belong to the innermost transaction, and go with it.
    """

    def __init__(self, session: Session, outbox: Outbox, tracked: Sequence[TrackedClass]) -> None:
        self.current: Flush | None = None
        self.is_committed = False
        self._session = session
        self._outbox = outbox
        self._tracked = tracked
        self._waiting: list[Submission] = []
        self._callbacks: list[tuple[Callable[[], Any], list[SessionTransaction]]] = []
        self._failed: list[SessionTransaction] = []
        self._depth = 0
        self._is_over = False

    def flush(self, flush: Callable[[], None]) -> None:
        """Flush, call the hooks of what was written, and write the tasks."""
        if self.current is not None:
            flush()  # within another, which SQLAlchemy refuses
            return
        notes = self.current = Flush()
        try:
            notes.look_ahead(self._session, self._tracked)
            flush()
        finally:
            self.current = None
        around = transactions_of(self._session)
        try:
            self._fire(list(notes.changes(self._session)))
            self._write()
        except BaseException:
            # The rows are written, and their tasks aren't: they must not be committed by one who goes on after this.
            self._failed = around
            raise

    def before_commit(self) -> None:
        """Write what waits. Raises where a commit would part rows from their tasks."""
        if self._depth and not self._session.in_nested_transaction():
            raise RuntimeError("a hook must not commit: whoever wrote the row does, with its tasks together")
        if self._failed:
            raise RuntimeError(
                "a hook has failed in this transaction, or savepoint: it can only be rolled back"
            )
        self._write()

    def rolled_back(self, transaction: SessionTransaction) -> None:
        """Forget what was of a transaction or savepoint."""
        self._waiting.clear()
        ended = rolled_back(transaction)
        self._callbacks = [each for each in self._callbacks if ended not in each[1]]
        if transaction in self._failed:
            self._failed = []

    def end(self) -> None:
        """The transaction is over: call what waited for its commit."""
        self._is_over = True
        if not self.is_committed:
            return
        for callback, _ in self._callbacks:
            try:
                _finish(callback())
            except Exception:  # it is committed, whatever this raises
                log.exception("a callback of ctx.on_commit raised")

    def _fire(self, changes: Sequence[Change]) -> None:
        if changes and self._depth == MAX_DEPTH:
            raise RuntimeError(f"hooks write rows whose hooks write rows, {MAX_DEPTH} deep")
        self._depth += 1
        try:
            for change in changes:
                self._call(change)
        finally:
            self._depth -= 1

    def _call(self, change: Change) -> None:
        tracked, hooks = change.tracked, change.tracked.hooks
        around = transactions_of(self._session)
        context = HookContext(
            user=None if tracked.user is None else tracked.user(self._session),
            session=async_session(self._session) or self._session,
            resource=tracked.resource,
            previous=change.previous if change.kind == "update" else None,
            submit=into(self._take),
            on_commit=self._call_later,
            shown=tracked.schema.for_tasks,
        )
        hook = {
            "create": hooks.on_after_create,
            "update": hooks.on_after_update,
            "delete": hooks.on_after_delete,
        }[change.kind]
        if hook is not None:
            _finish(call_hook(hook, context, change.row))
        if transactions_of(self._session) != around:
            raise RuntimeError(
                "a hook must end its own savepoints and no transaction; to refuse a write, it raises"
            )

    def _write(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._outbox.write_in(self._session, waiting)
        relay_at_the_end(self._session, self._outbox, [each.task.id for each in waiting])

    def _take(self, new: Submission) -> bool:
        if not self._is_over:
            self._waiting.append(new)
        return not self._is_over

    def _call_later(self, callback: Callable[[], Any]) -> None:
        self._callbacks.append((callback, transactions_of(self._session)))


def _finish(result: Awaitable[Any] | Any) -> None:
    """Wait for what a hook returned, in the loop that drives this session, if one does."""
    if not inspect.isawaitable(result):
        return
    if in_greenlet():
        await_only(result)
        return
    coroutine = _awaited(result)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError(
        "a hook of a synchronous session can't wait: no event loop runs there; let a task do it, or use an AsyncSession"
    )


async def _awaited(result: Awaitable[Any]) -> None:
    await result
