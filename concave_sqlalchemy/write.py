"""One writing request: its transaction, what its hooks are told, and the tasks that commit with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import Request

from concave.hooks import HookContext
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.relay import Submission, into
from concave_sqlalchemy.threads import caller_in_threads, session_for_hooks

__all__ = ["Write"]

MAX_REQUEST_ID = 200


class Write:
    """From BEGIN to COMMIT, and a little longer: hooks may hold on to their context."""

    def __init__(
        self,
        session: AsyncSession,
        outbox: Outbox,
        *,
        user: Any,
        request: Request,
        resource: str,
        shares_session: bool,
    ) -> None:
        self.session = session
        self.submissions: list[Submission] = []
        self._user = user
        self._request = request
        self._resource = resource
        self._shares_session = shares_session
        self._outbox = outbox
        self._sealed = False
        self._open = True

    @cached_property
    def ctx(self) -> HookContext:
        """What hooks are told. Made when the first of them is."""
        return HookContext(
            user=self._user,
            request=self._request,
            session=session_for_hooks(self.session) if self._shares_session else None,
            resource=self._resource,
            request_id=_request_id(self._request),
            enqueue=into(self._take),
            in_thread=caller_in_threads(self.session),
        )

    def seal(self) -> None:
        """There are all the tasks that there will be. Not for `flush` to say, which may run in a thread: one that came then was lost."""
        self._sealed = True

    def flush(self, session: Session) -> None:
        """Write the tasks, unless that was done: the last statement before the commit."""
        if not self._open:
            return
        try:
            self.submissions = self._outbox.write_in(session, self.submissions)
        finally:
            self.close()

    @asynccontextmanager
    async def nested(self) -> AsyncGenerator[None]:
        """A savepoint: what is raised inside of it undoes what hooks did there, their tasks and callbacks included."""
        tasks, callbacks = len(self.submissions), len(self.ctx.after_commit)
        try:
            async with self.session.begin_nested():
                yield
        except BaseException:
            del self.submissions[tasks:]
            self.ctx.forget_commit(callbacks)
            raise

    def close(self) -> None:
        """The transaction is over, or about to be."""
        self._open = False

    def _take(self, new: Submission) -> bool:
        if self._open and self._sealed:
            raise RuntimeError(
                "the transaction is being committed: enqueue in a hook, or once it has committed"
            )
        if self._open:
            self.submissions.append(new)
        return self._open


def _request_id(request: Request) -> str | None:
    """What a middleware or the client calls the request."""
    given = request.scope.get("state", {}).get("request_id")
    if not given and b"x-request-id" in [name for name, _ in request.headers.raw]:
        given = request.headers.get("x-request-id")
    return None if given is None else str(given)[:MAX_REQUEST_ID]
