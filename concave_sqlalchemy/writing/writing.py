"""What can be written to a table over HTTP. Each request is one transaction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.orm import Session

from concave.failpoints import armed
from concave.hooks import PlainTriggers, Row
from concave_sqlalchemy.etags import Conditions, Tags
from concave_sqlalchemy.keys import KeyValue
from concave_sqlalchemy.problems import Problem, in_header
from concave_sqlalchemy.scopes import OPEN, Where, both, is_denied
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.call import Answer, Call
from concave_sqlalchemy.writing.insert_with_tasks import TasksToBe
from concave_sqlalchemy.writing.perform import Performer
from concave_sqlalchemy.writing.rows import Rows
from concave_sqlalchemy.writing.verbs import Manner, Shown, Target, Verbs

__all__ = ["Writing", "created", "updated"]

SAFE: Final = "/:@!$&'()*+,;=~"
"""What a path may hold as it is."""
PLAIN: Final = re.compile(r"[a-z0-9/_-]*", re.IGNORECASE | re.ASCII)
"""A path of nothing else, as most are: that is told far sooner than what to escape."""


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """A resource's writing side."""

    performer: Performer
    rows: Rows
    verbs: Verbs
    tags: Tags
    require_if_match: bool
    """Whether a row is changed or deleted only by who says which state of it is meant."""

    async def create(self, call: Call, body: Mapping[str, Any]) -> Answer:
        """A new row."""
        if is_denied(call.access["create"]):
            raise Problem(403, "you may not create rows here")
        given = self.verbs.read_new(body)
        if self.verbs.creates_at_once and call.access is OPEN and call.key is None:

            def insert(session: Session, tasks: TasksToBe | None = None) -> tuple[Answer, Row]:
                shown, row = self.verbs.create_at_once(session, given, tasks)
                return created(call, shown), row

            after = self.verbs.hooks.on_after_create
            if isinstance(after, PlainTriggers) and self.performer.waits_on_the_loop:
                return await self.performer.perform_at_once(call, insert, after)
            if after is None and not armed:
                return await self.performer.perform_bare(insert)

        async def work(write: Write) -> Answer:
            return created(call, await self.verbs.create(write, given, access=call.access))

        # What a before-hook does is its own affair.
        begins_with_write = self.verbs.hooks.on_before_create is None
        return await self.performer.perform(call, work, begins_with_write=begins_with_write)

    async def update(self, call: Call, key: KeyValue, body: Mapping[str, Any], manner: Manner) -> Answer:
        """Change some columns of a row, or put a whole row in place of it."""
        self._check_conditional(call)

        async def work(write: Write) -> Answer:
            target = await self._target(write, call, key, call.access["update"])
            given = self.verbs.read_change(body, self.verbs.schema.key.of_row(target.current), manner)
            return updated(await self.verbs.update(write, target, given, manner))

        return await self.performer.perform(call, work)

    async def delete(self, call: Call, key: KeyValue) -> Answer:
        """Delete a row."""
        self._check_conditional(call)

        async def work(write: Write) -> Answer:
            await self.verbs.delete(write, await self._target(write, call, key, call.access["delete"]))
            return Answer(204)

        return await self.performer.perform(call, work)

    async def _target(self, write: Write, call: Call, key: KeyValue, where: Where) -> Target:
        """The row, locked, as the request's conditions want it: from here on nobody else can make it another one."""
        within = both(call.access["read"], where)
        current = await self.rows.locked(write.session, key, where=within)
        if call.conditions != Conditions():
            call.conditions.check(self.tags.of(current))
        return Target(current, within, call.conditions.is_certain)

    def check_unconditional(self, call: Call) -> None:
        """For a write that isn't of one row: it can't be about one state, and says so where one must say."""
        if call.conditions.is_certain:
            raise in_header(400, "if-match", "can only be *, since this request is not about one row")
        self._check_conditional(call)

    def _check_conditional(self, call: Call) -> None:
        if self.require_if_match and call.conditions.if_match is None:
            raise in_header(428, "if-match", "say which state of the row you mean: send its ETag")


def created(call: Call, row: Shown) -> Answer:
    """What is answered to a new row: where it is, too."""
    # Not of `request.url`, which takes longer than all the rest of this.
    location = f"{_quoted(call.request.scope['path'].rstrip('/'))}/{row.path}"
    return Answer(201, row.body, {"location": location, **_tagged(row)})


def updated(row: Shown) -> Answer:
    """What is answered to a change."""
    return Answer(200, row.body, _tagged(row))


def _quoted(path: str) -> str:
    return path if PLAIN.fullmatch(path) else quote(path, safe=SAFE)


def _tagged(row: Shown) -> Mapping[str, str]:
    return {} if row.tag is None else {"etag": row.tag}
