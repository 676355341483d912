"""A new row and the outbox rows of its tasks as one statement: PostgreSQL can, and that spares the request a round trip.

A task is told of its row, and nobody knows that before the database has made it: its number, the time. So the database writes this part
of the payloads, in the statement that inserts the row, and gives back what it wrote. It may commit only where that is, to the letter, what
the tasks are told. Where it isn't, all of it is undone and done again in statements of their own, as everything is from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from pydantic_core import to_json
from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Dialect,
    String,
    Table,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    select,
    true,
    union_all,
)
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session
from sqlalchemy.util import immutabledict

from concave.hooks import Row, TaskForm
from concave_sqlalchemy.outages import is_outage, sqlstate
from concave_sqlalchemy.outbox_sql import GIVEN
from concave_sqlalchemy.payload import around
from concave_sqlalchemy.plain import PlainSession
from concave_sqlalchemy.relay import Submission
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.tables import database_time, outbox_table
from concave_sqlalchemy.writing.row_json import writer_of

__all__ = ["InsertWithTasks", "NotAlikeError", "TaskToBe", "TasksToBe"]

log = logging.getLogger("concave.resource")

# Not as constants with backslashes, which mean another thing where standard_conforming_strings is off; nor as parameters, each of which
# would be sent with each row.
BACKSLASH: Final = literal_column("chr(92)", Text)
QUOTE: Final = literal_column("chr(34)", Text)

REFUSALS: Final = frozenset({"23", "40", "53", "55", "57", "P0"})
"""Classes of what PostgreSQL says of a row, of its own state, or in the words of a trigger: not that it can't do such a statement."""

OF_VALUES: Final = "22"
"""The class of what PostgreSQL says of a value: of the row's, or of what is made of it for the tasks, which one doesn't know."""


class NotAlikeError(Exception):
    """What the database wrote isn't what the tasks are told, or it takes no such statement. Nothing of it may commit.

    `lasts`: whether it says something of the table, and not of one row.
    """

    def __init__(self, reason: str, *, lasts: bool = True) -> None:
        super().__init__(reason)
        self.lasts = lasts


class InsertWithTasks:
    """The statements of one table, as long as they do."""

    def __init__(self, table: Table, schema: RowSchema) -> None:
        self._table = table
        self._fields = schema.fields
        self._writers = {field.name: writer_of(field.column.type) for field in schema.fields}
        self._does = None not in self._writers.values()
        self.tells_as_shown = self._does and schema.shows_all
        """Whether tasks are told of a row in the very JSON that its client is shown, whatever database it is in."""
        # Which columns are given is the client's to say: as many statements as there are ways to say it would be too many.
        self._statement = lru_cache(maxsize=64)(self._built)
        # As long as this lives, and not longer: a form holds a scheduler.
        self._around = lru_cache(maxsize=256)(around)

    def does_for(self, session: Session) -> bool:
        """Whether rows of this session's can be inserted so: not where it is one of its owner's own, who may look at its statements."""
        plain: Any = session
        return self._does and type(plain) is PlainSession and plain.get_bind().dialect.name == "postgresql"

    def note(self, reason: NotAlikeError) -> None:
        """Do no more of it, unless the reason was one row's."""
        if not reason.lasts:
            return
        self._does = False
        log.info("%s and its tasks are inserted by statements of their own: %s", self._table.name, reason)

    def returned(
        self, session: Session, values: Mapping[str, Any], tasks: Sequence[TaskToBe]
    ) -> Sequence[Any]:
        """Insert a row, by column, and outbox rows that tell of it; the row's values, and what was told."""
        parameters = dict(values)
        for at, (form, task_id, destination) in enumerate(tasks):
            before, after = self._around(form)
            # As it is: ids have nothing in them that JSON writes otherwise.
            given = (task_id, f'{{"id":"{task_id}"{before}', after, destination)
            parameters.update(zip(_names(at), given, strict=True))
        connection = session.connection()
        # What else its compiled form depends on: the dialect, and whether its tables are to be found in other schemas.
        where = connection.dialect, bool(connection.get_execution_options().get("schema_translate_map"))
        statement, cached = self._statement(where, frozenset(values), len(tasks))
        # A listener may make another statement of it, and each time another one. Of the engine's, or of whoever is told of connections:
        # nobody else has this one.
        told = connection.engine.dispatch
        options = None if told.before_execute or told.engine_connect else cached
        try:
            found = connection.execute(statement, parameters, execution_options=options).first()
        except StatementError as error:
            if _is_a_refusal(error):
                raise
            of_values = isinstance(error, DBAPIError) and sqlstate(error).startswith(OF_VALUES)
            # And not with what was sent.
            raise NotAlikeError(f"it was refused: {error.orig}", lasts=not of_values) from error
        if found is None:
            raise NotAlikeError("the database inserted nothing", lasts=False)
        return found

    def _built(
        self, _where: tuple[Dialect, bool], given: frozenset[str], count: int
    ) -> tuple[Any, immutabledict[str, Any]]:
        columns = {name: self._table.c[name] for name in sorted(given)}
        values = {name: bindparam(name, type_=column.type) for name, column in columns.items()}
        returning = [field.column.label(field.name) for field in self._fields]
        row = insert(self._table).values(values).returning(*returning).cte("concave_row")
        shown = select(*self._shown(row)).subquery("concave_shown")
        text = cast(func.row_to_json(shown.table_valued()), Text)
        told = select(text.label("told")).select_from(shown).cte("concave_told")
        tasks = union_all(*(_outbox_row(told, at) for at in range(count)))
        outbox = insert(outbox_table).from_select([*GIVEN, "created_at"], tasks).cte("concave_tasks")
        # What is told is read from where both have it from: whoever may insert tasks needn't have the right to look at them.
        statement = select(*row.c, told.c.told).select_from(row.join(told, true())).add_cte(outbox)
        return statement, immutabledict(compiled_cache=_CompiledOnce())

    def _shown(self, row: Any) -> Sequence[ColumnElement[Any]]:
        return [write(row.c[name]).label(name) for name, write in self._writers.items() if write is not None]


class TaskToBe(NamedTuple):
    """One of them, and the destination of its outbox row."""

    form: TaskForm
    id: str
    destination: str | None


class TasksToBe:
    """The tasks of a row that isn't there yet, on their way with it."""

    def __init__(self, inserts: InsertWithTasks, tasks: Sequence[TaskToBe]) -> None:
        self._inserts = inserts
        self._tasks = tasks
        self._told: str | None = None
        self.written: Sequence[Submission] | None = None
        """The tasks that were written with the row, told of it; None where they weren't."""

    def insert(self, session: Session, values: Mapping[str, Any]) -> Sequence[Any] | None:
        """Insert them with this row, by column: its values. None where that isn't to be done with such values."""
        if not values or any(isinstance(value, ClauseElement) for value in values.values()):
            return None
        *row, self._told = self._inserts.returned(session, values, self._tasks)
        return row

    def confirm(self, row: Row, shown: bytes | None = None) -> None:
        """Look at what was inserted, if it was. `shown` is the row's JSON, where that is made already.

        Raises `NotAlikeError`, and `TaskInputTooLargeError`.
        """
        if self._told is None:
            return
        try:
            data = to_json(row, inf_nan_mode="constants") if shown is None else shown
        except (
            ValueError
        ) as error:  # Pydantic's: no JSON for what a driver, or a type of another name, made of a value
            raise NotAlikeError(f"a value has no JSON: {type(error).__name__}") from error
        if data != self._told.encode():
            raise NotAlikeError("the database writes a value otherwise than Pydantic does")
        self.written = [
            Submission(form.filled(task_id, data), form.scheduler) for form, task_id, _ in self._tasks
        ]


class _CompiledOnce(dict[object, Any]):
    """A cache of a statement that has only one compiled form.

    SQLAlchemy's own is asked by all that the statement consists of, a thousand things, which it hashes each time.
    """

    def get(self, _key: object, default: Any = None) -> Any:
        return super().get(None, default)

    def __setitem__(self, _key: object, compiled: Any) -> None:
        super().__setitem__(None, compiled)


@cache
def _names(at: int) -> Sequence[str]:
    """Of the parameters of one task."""
    return tuple(f"concave_{name}_{at}" for name in ("id", "before", "after", "destination"))


def _outbox_row(told: Any, at: int) -> Any:
    id_, before, after, destination = _names(at)
    escaped = func.replace(
        func.replace(told.c.told, BACKSLASH, BACKSLASH + BACKSLASH), QUOTE, BACKSLASH + QUOTE, type_=Text
    )
    payload = bindparam(before, type_=Text) + escaped + bindparam(after, type_=Text)
    return select(
        bindparam(id_, type_=String).label("id"),
        payload.label("payload"),
        bindparam(destination, type_=Text).label("destination"),
        database_time().label("created_at"),
    ).select_from(told)


def _is_a_refusal(error: StatementError) -> bool:
    """Whether a statement failed for what it was to insert, or where; an error of SQLAlchemy's own is none."""
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error)
    return is_outage(error) or not state or state[:2] in REFUSALS
