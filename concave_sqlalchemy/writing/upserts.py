"""``POST ?on_conflict=email``: a new row, or a change of the one that has the same unique values already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import PrimaryKeyConstraint, Table, UniqueConstraint

from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.pagination.request import names
from concave_sqlalchemy.problems import Problem, conflict
from concave_sqlalchemy.schema import Body
from concave_sqlalchemy.scopes import both
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.call import Answer, Call
from concave_sqlalchemy.writing.verbs import Shown, Target
from concave_sqlalchemy.writing.writing import Writing, created, updated

__all__ = ["PARAMETER", "Upserts"]

PARAMETER: Final = "on_conflict"

ATTEMPTS: Final = 3
"""How often a row may come and go between a look and an INSERT before the client is told of a conflict."""


class _TakenError(Exception):
    """There is such a row by now: what was done for a new one is undone."""


@dataclass(frozen=True, slots=True, eq=False)
class Upserts:
    """A resource's upserts, by the sets of fields that no two rows can have in common."""

    writing: Writing
    unique: frozenset[frozenset[str]]

    @classmethod
    def of(cls, writing: Writing, table: Table, fields: tuple[ResourceField, ...]) -> Upserts:
        """The upserts into a table."""
        return cls(writing, frozenset(_unique_sets(table, fields)))

    def offered(self, writable: Sequence[ResourceField]) -> tuple[str, ...]:
        """What clients may ask for, who send all of the fields that they name."""
        names = [field.name for field in writable]
        sets = (each for each in self.unique if each <= set(names))
        return tuple(sorted(",".join(sorted(each, key=names.index)) for each in sets))

    def read(self, text: str) -> tuple[ResourceField, ...]:
        """The fields of ``on_conflict=a,b``. Raises `Problem` 400 where two rows could have the same ones."""
        fields = {field.name: field for field in self.writing.verbs.schema.fields}
        chosen = names(PARAMETER, text, fields)
        if frozenset(chosen) not in self.unique:
            message = "must be the key, or fields that are unique together"
            raise Problem(400, f"{PARAMETER} {message}", errors=[{"field": PARAMETER, "message": message}])
        return tuple(fields[name] for name in chosen)

    async def one(self, call: Call, body: Mapping[str, Any], fields: tuple[ResourceField, ...]) -> Answer:
        """A new row (201), or a changed one (200)."""
        self.writing.check_unconditional(call)
        given = self.writing.verbs.read_new(body)

        async def work(write: Write) -> Answer:
            is_new, row = await self.put(write, call, given, fields)
            return created(call, row) if is_new else updated(row)

        return await self.writing.performer.perform(call, work)

    async def put(
        self, write: Write, call: Call, given: Body, fields: tuple[ResourceField, ...]
    ) -> tuple[bool, Shown]:
        """Whether the row is new, and the row. 409 where the one that is there isn't the client's to change."""
        known = _known(given, fields)
        within = both(call.access["read"], call.access["update"])
        rows, verbs = self.writing.rows, self.writing.verbs
        # Another transaction may add or delete the row between the two steps; each of them is certain of what it finds.
        for _ in range(ATTEMPTS):
            current = await rows.locked_with(write.session, known, where=within)
            if current is not None:
                change = self._change(given, known, current)
                return False, await verbs.update(write, Target(current, within), change, "set")
            made = await self._create(write, call, given, fields)
            if made is not None:
                return True, made
        raise conflict()

    def _change(self, given: Body, known: Mapping[str, Any], current: Mapping[str, Any]) -> Body:
        keys = self.writing.verbs.schema.key.names
        if any(given.values.get(name, current[name]) != current[name] for name in keys):
            raise conflict()  # the row that is there has another key
        return Body(
            {name: value for name, value in given.values.items() if not (name in known or name in keys)}
        )

    async def _create(
        self, write: Write, call: Call, given: Body, fields: tuple[ResourceField, ...]
    ) -> Shown | None:
        verbs = self.writing.verbs
        if verbs.hooks.on_before_create is None:
            return await verbs.create_unless_there(write, given, fields, access=call.access)
        try:
            async with write.nested():
                made = await verbs.create_unless_there(write, given, fields, access=call.access)
                if made is None:
                    raise _TakenError
        except _TakenError:
            return None
        return made


def _known(given: Body, fields: tuple[ResourceField, ...]) -> dict[str, Any]:
    """The values that tell whether the row is there. NULL is like no other value, and so never there."""
    missing = [field.name for field in fields if field.name not in given.values]
    if missing:
        errors = [{"field": name, "message": f"is needed for {PARAMETER}"} for name in missing]
        raise Problem(422, f"not valid: {', '.join(missing)}", errors=errors)
    return {field.name: given.values[field.name] for field in fields}


def _unique_sets(table: Table, fields: tuple[ResourceField, ...]) -> Iterator[frozenset[str]]:
    by_column = {field.column: field.name for field in fields}
    # One that is tested at the commit only can't tell an INSERT of a conflict.
    sets = [
        list(each.columns)
        for each in table.constraints
        if isinstance(each, PrimaryKeyConstraint | UniqueConstraint) and not each.deferrable
    ]
    # Of an index over expressions, or over some of the rows, an INSERT would have to repeat them.
    sets += [
        list(each.columns)
        for each in table.indexes
        if each.unique
        and len(each.columns) == len(each.expressions)
        and all(each.dialect_options[name].get("where") is None for name in ("postgresql", "sqlite"))
    ]
    for columns in sets:
        if columns and all(column in by_column for column in columns):
            yield frozenset(by_column[column] for column in columns)
