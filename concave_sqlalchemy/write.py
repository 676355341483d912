"""One writing request: its transaction, what its hooks are told, and the tasks that commit with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from concave.errors import TaskInputTooLargeError
from concave.failpoints import FailPoint, armed, reach
from concave.hooks import HookContext, Row, call_hook
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.outbox_sql import delete_along
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.relay import Submission, into
from concave_sqlalchemy.savepoints import Savepoints
from concave_sqlalchemy.transactions import AnySession

__all__ = ["Write", "too_large"]

log = logging.getLogger("concave.resource")

T = TypeVar("T")

MAX_REQUEST_ID = 200


class Write:
    """From BEGIN to COMMIT, and a little longer: hooks may hold on to their context."""

    session: AnySession
    """Of the transaction, from its beginning on."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        user: Any,
        request: Request,
        resource: str,
        shown: Callable[[Row], Row],
        shares_session: bool,
    ) -> None:
        self.submissions: list[Submission] = []
        self._callbacks: list[Callable[[], Any]] = []
        self._savepoints: Savepoints | None = None
        self._user = user
        self._request = request
        self._resource = resource
        self._shown = shown
        self._shares_session = shares_session
        self._outbox = outbox
        self._ctx: HookContext | None = None
        self._sealed = False
        self._open = True

    @property
    def ctx(self) -> HookContext:
        """What hooks are told. Made when the first of them is."""
        if self._ctx is None:
            self._ctx = HookContext(
                user=self._user,
                request=self._request,
                session=self.session.for_hooks if self._shares_session else None,
                resource=self._resource,
                request_id=_request_id(self._request),
                submit=into(self._take),
                on_commit=self._call_later,
                shown=self._shown,
                in_thread=self.session.in_thread,
            )
        return self._ctx

    async def call_hook(self, hook: Callable[..., Any], *args: Any) -> Any:
        """Call a hook, as it would be called in no transaction. 413 for what is too much for a task."""
        try:
            return await self.session.outside(call_hook(hook, *args))
        except TaskInputTooLargeError as error:
            raise too_large(error) from error

    async def reach(self, point: FailPoint) -> None:
        """Pass a fail-point, if any is armed."""
        if armed:
            await self.session.outside(reach(point))

    async def finish(self) -> None:
        """Write the tasks: the last statements before the commit. There are all that there will be."""
        self._sealed = True
        if not self.submissions:
            return
        write_in = self._outbox.write_in
        self.submissions = await self.session.run_sync(write_in, self.submissions, at_commit=True)
        # Not where hooks had the session: they may have changed how it is isolated.
        gone = () if self._shares_session else self._outbox.relayed()
        if gone and not await self.session.run_sync(delete_along, gone):
            self._outbox.keep(gone)

    @asynccontextmanager
    async def nested(self) -> AsyncGenerator[None]:
        """A savepoint: what is raised inside of it undoes what hooks did there, their tasks and callbacks included."""
        tasks, callbacks = len(self.submissions), len(self._callbacks)
        try:
            async with self.session.begin_nested():
                yield
        except BaseException:
            del self.submissions[tasks:]
            del self._callbacks[callbacks:]
            raise

    def close(self) -> Sequence[Callable[[], Any]]:
        """The transaction is over: what hooks have to be called if it has committed, in order."""
        self._open = False
        # Nor is it for the collector of garbage to find a write and its context, which know each other, and all that they know.
        self._ctx = None
        if self._savepoints is not None:
            self._savepoints.close()
            self._savepoints = None
        return self._callbacks

    def _take(self, new: Submission) -> bool:
        if self._open and self._sealed:
            raise RuntimeError(
                "the transaction is being committed: enqueue in a hook, or once it has committed"
            )
        if self._open:
            self._keep(self.submissions, new)
        return self._open

    def _call_later(self, callback: Callable[[], Any]) -> None:
        self._keep(self._callbacks, callback)

    def _keep(self, kept: list[T], one: T) -> None:
        """Until the commit, or as long as the savepoint lasts that a hook has begun, and may roll back."""
        kept.append(one)
        if not (self._open and self._shares_session and self.session.sync_session.in_nested_transaction()):
            return
        if self._savepoints is None:
            self._savepoints = Savepoints(self.session.sync_session)
        self._savepoints.note(kept, one)


def too_large(error: TaskInputTooLargeError) -> Problem:
    """What a client is told whose row is too much for a task."""
    # A body within `max_body` can make more of an input, of the defaults and the names in it, than `max_input_bytes`.
    log.info("a write was refused: %s", error)
    return Problem(413, "too large for a task that it triggers (max_input_bytes)")


def _request_id(request: Request) -> str | None:
    """What a middleware or the client calls the request."""
    scope = request.scope  # and not `request.headers`, which would have to be made
    given = scope["state"].get("request_id") if "state" in scope else None
    if not given and any(name == b"x-request-id" for name, _ in scope["headers"]):
        given = request.headers.get("x-request-id")
    return None if given is None else str(given)[:MAX_REQUEST_ID]
