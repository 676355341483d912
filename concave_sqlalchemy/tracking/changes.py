"""What one flush changes of the tracked classes: which rows, what they were, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, cast

from sqlalchemy import Connection, Select, Table, inspect, select, tuple_
from sqlalchemy.orm import InstanceState, Mapper, Session, object_mapper, object_session

from concave.errors import ConfigurationError
from concave.hooks import ResourceHooks, Row
from concave.triggers import Event, changed_columns
from concave_sqlalchemy.fields import ResourceField, fields_of, resource_of, table_of
from concave_sqlalchemy.keys import key_of
from concave_sqlalchemy.policy import Allowed, Fields
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.transactions import has_begun

__all__ = ["Change", "Flush", "TrackedClass"]

READ_AT_ONCE = 500
"""Rows of one SELECT: less than what databases take as parameters."""

Identity: TypeAlias = tuple[Any, ...]
"""An object's primary key, in the order of its mapper's."""


class Change(NamedTuple):
    """What has happened to a row."""

    kind: Event
    tracked: TrackedClass
    row: Row
    previous: Row | None


@dataclass(frozen=True, slots=True, eq=False)
class TrackedClass:
    """A class, its hooks, and how its rows are read."""

    cls: type[Any]
    hooks: ResourceHooks
    user: Callable[[Session], Any] | None
    resource: str
    mapper: Mapper[Any]
    schema: RowSchema
    statement: Select[Any]
    identity: tuple[str, ...]
    """The fields of the primary key, in the mapper's order."""
    subclasses: dict[Mapper[Any], TrackedClass] = field(default_factory=dict[Mapper[Any], "TrackedClass"])
    """The same for each subclass that was met: it may map columns of its own."""

    @classmethod
    def of(
        cls, mapped: type[Any], hooks: ResourceHooks, user: Callable[[Session], Any] | None
    ) -> TrackedClass:
        """Raises `ConfigurationError` for what isn't a mapped class that could be a resource."""
        table, mapper = table_of(mapped)
        if mapper is None:
            raise ConfigurationError(f"track_session() takes mapped classes, not the table {table.name!r}")
        tracked = cls._of(mapper, hooks, user)
        for each in mapper.self_and_descendants:
            tracked.of_mapper(each)
        return tracked

    @classmethod
    def _of(
        cls, mapper: Mapper[Any], hooks: ResourceHooks, user: Callable[[Session], Any] | None
    ) -> TrackedClass:
        # The base's table first, then those that its subclasses join to it; of a concrete class its own.
        tables = cast("Sequence[Table]", mapper.tables)
        table = tables[0]
        every = [each for one in tables for each in fields_of(one, mapper)]
        named: dict[str, ResourceField] = {}
        for each in every:
            named.setdefault(each.name, each)
        fields = list(named.values())
        # A joined table's key is the base's once more, be it by another name.
        key = key_of(table, [each for each in fields if each.column.table is table])
        return cls(
            mapper.class_,
            hooks,
            user,
            resource_of(table),
            mapper,
            RowSchema.of(table.name, fields, key, Allowed.of(fields, key, Fields())),
            select(*(each.column.label(each.name) for each in fields)).select_from(mapper.persist_selectable),
            tuple(str(mapper.get_property_by_column(column).key) for column in mapper.primary_key),
        )

    def of_object(self, target: Any) -> TrackedClass:
        """How the rows of an object's own class are read."""
        return self.of_mapper(object_mapper(target))

    def of_mapper(self, mapper: Mapper[Any]) -> TrackedClass:
        """The same for a subclass."""
        if mapper is self.mapper:
            return self
        known = self.subclasses.get(mapper)
        if known is None:
            known = self.subclasses[mapper] = self._of(mapper, self.hooks, self.user)
        return known

    def read(
        self, connection: Connection, identities: Iterable[Identity], *, lock: bool = False
    ) -> dict[Identity, Row]:
        """Rows, as the database has them, by what they were asked for by."""
        every = list(dict.fromkeys(identities))
        parts = [every[at : at + READ_AT_ONCE] for at in range(0, len(every), READ_AT_ONCE)]
        found = [row for part in parts for row in self._rows(connection, part, lock=lock)]
        rows = {tuple(row[name] for name in self.identity): row for row in found}
        # A key may come back as another value than the object has: of a type that changes what it stores.
        for identity in every:
            if identity not in rows:
                rows |= {identity: row for row in self._rows(connection, [identity], lock=lock)}  # noqa: B035  (one at most)
        return rows

    def _rows(self, connection: Connection, identities: Sequence[Identity], *, lock: bool) -> list[Row]:
        columns = self.mapper.primary_key
        one = len(columns) == 1
        condition = (
            columns[0].in_([value for (value,) in identities]) if one else tuple_(*columns).in_(identities)
        )
        statement = self.statement.where(condition).order_by(*columns)
        if lock:
            # As strong a lock as an UPDATE's, which lets others insert rows that refer to this one.
            statement = statement.with_for_update(key_share=True)
        return [self.schema.row_of(found) for found in connection.execute(statement).mappings()]


class Flush:
    """Notes of one flush."""

    def __init__(self) -> None:
        self._previous: dict[InstanceState[Any], Row] = {}
        self._noted: dict[InstanceState[Any], tuple[Event, TrackedClass]] = {}

    def look_ahead(self, session: Session, tracked: Sequence[TrackedClass]) -> None:
        """Remember together, a class at a time, what will most likely be changed."""
        changing = [each for each in session.dirty if session.is_modified(each, include_collections=False)]
        for one in tracked:
            hooks = one.hooks
            objects = [
                *(changing if hooks.on_after_update is not None else ()),
                *(session.deleted if hooks.on_after_delete is not None else ()),
            ]
            ours: dict[TrackedClass, list[Any]] = {}
            for each in objects:
                if isinstance(each, one.cls):
                    ours.setdefault(one.of_object(each), []).append(each)
            for own, targets in ours.items():
                connection = session.connection(bind_arguments={"mapper": own.mapper})
                self.remember(own, connection, targets)

    def remember(self, tracked: TrackedClass, connection: Connection, targets: Iterable[Any]) -> None:
        """Read the rows of these objects before they are changed, and hold them until they are."""
        states: list[InstanceState[Any]] = [inspect(target) for target in targets]
        asked = {
            state: state.key[1] for state in states if state not in self._previous and state.key is not None
        }
        if asked:
            self._read(tracked, connection, asked)

    def remember_replaced(self, tracked: TrackedClass, connection: Connection, target: Any) -> None:
        """The same for a new object in place of a deleted one with its key: SQLAlchemy makes one update of the two."""
        key = tracked.mapper.identity_key_from_instance(target)
        session = object_session(target)
        if session is not None and key in session.identity_map:
            self._read(tracked, connection, {inspect(target): key[1]})

    def _read(
        self, tracked: TrackedClass, connection: Connection, asked: Mapping[InstanceState[Any], Identity]
    ) -> None:
        if connection.dialect.name == "sqlite" and not has_begun(connection):
            # It would begin with the first change only: between that and what is read here, another could write.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        rows = tracked.read(connection, asked.values(), lock=True)
        self._previous |= {state: rows[identity] for state, identity in asked.items() if identity in rows}

    def note(self, kind: Event, tracked: TrackedClass, target: Any) -> None:
        """A row was written. One that was inserted and then completed (``post_update``) is a new row all the same."""
        self._noted.setdefault(inspect(target), (kind, tracked))

    def changes(self, session: Session) -> Iterator[Change]:
        """What has happened, in its order; read when the flush is over, and before anything else is written."""
        current = self._current(session)
        for state, (kind, tracked) in self._noted.items():
            previous = self._previous.get(state)
            row = previous if kind == "delete" else current.get(state)
            if row is None or (kind == "update" and not changed_columns(previous, row)):
                continue
            yield Change(kind, tracked, row, previous)

    def _current(self, session: Session) -> Mapping[InstanceState[Any], Row]:
        """The rows of what was inserted or updated, a SELECT for each class."""
        current: dict[InstanceState[Any], Row] = {}
        written: dict[TrackedClass, dict[InstanceState[Any], Identity]] = {}
        for state, (kind, tracked) in self._noted.items():
            if kind != "delete" and state.key is not None:
                written.setdefault(tracked, {})[state] = state.key[1]
        for tracked, asked in written.items():
            connection = session.connection(bind_arguments={"mapper": tracked.mapper})
            rows = tracked.read(connection, asked.values())
            current |= {state: rows[identity] for state, identity in asked.items() if identity in rows}
        return current
