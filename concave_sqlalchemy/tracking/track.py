"""`track_session`: an application's own writes fire the same after-hooks and triggers as those through a resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, object_session

from concave.errors import ConfigurationError
from concave.hooks import ResourceHooks
from concave.triggers import Event
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tracking.changes import Flush, TrackedClass
from concave_sqlalchemy.tracking.unit import Unit
from concave_sqlalchemy.transactions import Sessions

__all__ = ["track_session"]

TRACKED = "_concave_tracked"
"""Where a session class keeps what is tracked in its sessions."""

UNIT = "concave_unit"
"""Where a session keeps what belongs to its transaction."""


def track_session(
    session: Sessions,
    hooks: Mapping[type[Any], ResourceHooks],
    *,
    user: Callable[[Session], Any] | None = None,
) -> None:
    """Have inserts, updates and deletes of these mapped classes fire their after-hooks and triggers, in the same transaction.

    That holds for all sessions that the factory (an ``async_sessionmaker`` or a ``sessionmaker``) makes from now on, in any code,
    with no request: ``ctx.request`` is None, and ``ctx.user`` is what `user` says of the synchronous session. Hooks run when
    the session flushes, once a row and flush, with the row as the database has it; cascades included. A row that didn't
    change is no update. What a hook enqueues commits with the row, and goes where it, or its savepoint, is rolled back;
    whatever a hook raises leaves the transaction nothing but a rollback. Before-hooks are the resource's alone.

    Not seen, because the unit of work isn't asked: ``insert()``, ``update()`` and ``delete()`` statements, ``bulk_…`` methods, the
    database's own cascades and triggers, and rows of a many-to-many table without a class.

    Hooks of a synchronous session may be ``async def``, but can't wait for anything: no event loop runs there.

    Raises `ConfigurationError` for what isn't a mapped class with a table of its own, or is tracked already, and for one that ``binds=`` sends to another
    engine than ``bind=``, where the outbox is.
    """
    tracked = [TrackedClass.of(cls, each, user) for cls, each in hooks.items()]
    outbox = Outbox.of(session)
    for each in tracked:
        outbox.transactions.check_holds(each.cls)
        outbox.serve(each.hooks.schedulers)
    sessions = _session_class(session, outbox)
    known: list[TrackedClass] = vars(sessions)[TRACKED]
    if again := {each.cls for each in known} & hooks.keys():
        raise ConfigurationError(
            f"{again.pop().__name__} is tracked already by this session factory; compose_hooks() makes one of several"
        )
    known += tracked
    for each in tracked:
        _listen(each, sessions)


def _session_class(factory: Sessions, outbox: Outbox) -> type[Session]:
    """The class of the factory's sessions, which flushes as its base does and then has the hooks called.

    An event within a flush wouldn't do: a hook must be able to flush what it has written itself.
    """
    base = _base_class(factory)
    if TRACKED in vars(base):
        return base
    tracked: list[TrackedClass] = []

    def flush(self: Session, objects: Sequence[Any] | None = None) -> None:
        unit: Unit | None = self.info.get(UNIT)
        if unit is None:
            unit = self.info[UNIT] = Unit(self, outbox, tracked)
        unit.flush(lambda: base.flush(self, objects))

    made: type[Session] = type(base.__name__, (base,), {"flush": flush, TRACKED: tracked})
    _follow(made)
    if isinstance(factory, async_sessionmaker):
        factory.configure(sync_session_class=made)
    else:
        factory.class_ = made
    return made


def _base_class(factory: Sessions) -> type[Session]:
    cls: Any = factory.class_
    if isinstance(factory, async_sessionmaker):
        return factory.kw.get("sync_session_class") or cls.sync_session_class  # type: ignore[no-any-return]
    return cls  # type: ignore[no-any-return]


def _follow(sessions: type[Session]) -> None:
    """Tell a session's unit how its transaction goes."""

    @event.listens_for(sessions, "before_commit")
    def before_commit(session: Session) -> None:  # pyright: ignore[reportUnusedFunction]
        if (unit := session.info.get(UNIT)) is not None:
            unit.before_commit()

    @event.listens_for(sessions, "after_commit")
    def after_commit(session: Session) -> None:  # pyright: ignore[reportUnusedFunction]
        if (unit := session.info.get(UNIT)) is not None and not session.in_nested_transaction():
            unit.is_committed = True

    @event.listens_for(sessions, "after_soft_rollback")
    def rolled_back(session: Session, transaction: SessionTransaction) -> None:  # pyright: ignore[reportUnusedFunction]
        if (unit := session.info.get(UNIT)) is not None:
            unit.rolled_back(transaction)

    @event.listens_for(sessions, "after_transaction_end")
    def ended(session: Session, transaction: SessionTransaction) -> None:  # pyright: ignore[reportUnusedFunction]
        if transaction.parent is None and (unit := session.info.pop(UNIT, None)) is not None:
            unit.end()


def _flush_of(session: Session | None, sessions: type[Session]) -> Flush | None:
    unit: Unit | None = session.info.get(UNIT) if isinstance(session, sessions) else None
    return None if unit is None else unit.current


def _listen(tracked: TrackedClass, sessions: type[Session]) -> None:
    """Note what these sessions write of a class and its subclasses."""

    def flush_of(target: Any) -> Flush | None:
        return _flush_of(object_session(target), sessions)

    def before(_mapper: Any, connection: Any, target: Any) -> None:
        if (flush := flush_of(target)) is not None:
            flush.remember(tracked.of_object(target), connection, [target])

    def before_insert(_mapper: Any, connection: Any, target: Any) -> None:
        if (flush := flush_of(target)) is not None:
            flush.remember_replaced(tracked.of_object(target), connection, target)

    def after(kind: Event) -> Callable[..., None]:
        def note(_mapper: Any, _connection: Any, target: Any) -> None:
            if (flush := flush_of(target)) is not None:
                flush.note(kind, tracked.of_object(target), target)

        return note

    hooks = tracked.hooks
    if hooks.on_after_create is not None:
        event.listen(tracked.cls, "after_insert", after("create"), propagate=True)
    if hooks.on_after_update is not None:
        event.listen(tracked.cls, "before_insert", before_insert, propagate=True)
        event.listen(tracked.cls, "before_update", before, propagate=True)
        event.listen(tracked.cls, "after_update", after("update"), propagate=True)
    if hooks.on_after_delete is not None:
        event.listen(tracked.cls, "before_delete", before, propagate=True)
        event.listen(tracked.cls, "after_delete", after("delete"), propagate=True)
