"""Many rows in one request and one transaction, each with its hooks and triggers: all of them, or none."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import to_json

from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.refusals import database_errors
from concave_sqlalchemy.schema import Body
from concave_sqlalchemy.scopes import Where, both, is_denied
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.call import Answer, Call
from concave_sqlalchemy.writing.upserts import Upserts
from concave_sqlalchemy.writing.verbs import Target
from concave_sqlalchemy.writing.writing import Writing

__all__ = ["Batches"]


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """A resource's batches, each of at most `limit` rows."""

    writing: Writing
    upserts: Upserts
    limit: int

    async def create(
        self, call: Call, body: Mapping[str, Any], *, unique: tuple[ResourceField, ...] = ()
    ) -> Answer:
        """New rows, as ``{"items": […]}``; answered in the same order. With `unique` fields, upserts."""
        given = self._items(body)
        if unique:
            self.writing.check_unconditional(call)
        elif is_denied(call.access["create"]):
            raise Problem(403, "you may not create rows here")
        drafts = self._read_new(given)

        async def work(write: Write) -> Answer:
            made: list[bytes] = []
            for number, draft in enumerate(drafts):
                with _item(number), database_errors(self.writing.performer.names):
                    if unique:
                        _, row = await self.upserts.put(write, call, draft, unique)
                    else:
                        row = await self.writing.verbs.create(write, draft, access=call.access)
                    made.append(row.body)
            return Answer(200, b'{"items":[' + b",".join(made) + b"]}")

        return await self.writing.performer.perform(call, work)

    async def update(self, call: Call, where: Where, body: Mapping[str, Any]) -> Answer:
        """One merge patch for each of the rows; how many there were."""
        self.writing.check_unconditional(call)
        verbs = self.writing.verbs
        given = verbs.read_change(body, None, "merge")

        async def work(write: Write) -> Answer:
            targets = await self._targets(write, call, where, call.access["update"])
            for target in targets:
                # A hook that changes what it gets must not change it for the next row.
                own = given._replace(values=copy.deepcopy(given.values))
                await verbs.update(write, target, own, "merge")
            return _counted(targets)

        return await self.writing.performer.perform(call, work)

    async def delete(self, call: Call, where: Where) -> Answer:
        """Delete the rows; how many there were."""
        self.writing.check_unconditional(call)

        async def work(write: Write) -> Answer:
            targets = await self._targets(write, call, where, call.access["delete"])
            await self.writing.verbs.delete_all(write, targets)
            return _counted(targets)

        return await self.writing.performer.perform(call, work)

    async def _targets(self, write: Write, call: Call, where: Where, scope: Where) -> list[Target]:
        within = both(call.access["read"], scope)
        rows = await self.writing.rows.all_locked(write.session, both(within, where), limit=self.limit + 1)
        self._check_limit(len(rows))
        return [Target(row, within) for row in rows]

    def _items(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        items = body.get("items")
        if set(body) != {"items"} or not isinstance(items, list):
            errors = [{"field": "items", "message": "Input should be a list of rows, and alone"}]
            raise Problem(422, 'the body must be {"items": […]}', errors=errors)
        given: list[Any] = cast("Any", items)
        self._check_limit(len(given))
        errors = [
            {"field": f"items.{number}", "message": "Input should be an object"}
            for number, item in enumerate(given)
            if not isinstance(item, dict)
        ]
        if errors:
            raise Problem(422, "not valid: items", errors=errors)
        return given

    def _read_new(self, items: list[dict[str, Any]]) -> list[Body]:
        """All of them, checked; 422 with what is wrong with each."""
        drafts: list[Body] = []
        errors: list[Mapping[str, str]] = []
        for number, item in enumerate(items):
            try:
                drafts.append(self.writing.verbs.read_new(item))
            except Problem as problem:
                errors += _placed(problem, number)
        if errors:
            fields = ", ".join(dict.fromkeys(each["field"] for each in errors))
            raise Problem(422, f"not valid: {fields}", errors=errors)
        return drafts

    def _check_limit(self, count: int) -> None:
        if count > self.limit:
            raise Problem(400, f"a batch is of at most {self.limit} rows", code="BATCH_LIMIT_EXCEEDED")


@contextmanager
def _item(number: int) -> Generator[None]:
    """Has a problem say which item it is about."""
    try:
        yield
    except Problem as problem:
        problem.errors = list(_placed(problem, number)) or [
            {"field": f"items.{number}", "message": problem.detail}
        ]
        raise


def _placed(problem: Problem, number: int) -> Iterator[Mapping[str, str]]:
    for error in problem.errors:
        yield {**error, "field": f"items.{number}.{error['field']}"}


def _counted(targets: list[Target]) -> Answer:
    return Answer(200, to_json({"count": len(targets)}))
