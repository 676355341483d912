"""`TaskMiddleware`: what `task_lifespan` does, around any ASGI app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from concave.lifespan import TaskLifespan, task_lifespan

__all__ = ["TaskMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class TaskMiddleware:
    """Runs tasks for as long as the app's server runs it. The options are those of `task_lifespan`.

    For apps whose lifespan is out of reach; one that knows no lifespan at all is served too. Requests find the scheduler
    in ``scope["state"]["scheduler"]``.
    """

    def __init__(self, app: ASGIApp, kv: Any = None, **options: Any) -> None:
        self._app = app
        self._lifespan: TaskLifespan = task_lifespan(kv, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's whole lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            await _Conversation(self._app, self._lifespan, stack).hold(scope, receive, send)


class _Conversation:
    """One server's lifespan: ours begins before the app's does, and ends after it."""

    def __init__(self, app: ASGIApp, lifespan: TaskLifespan, stack: AsyncExitStack) -> None:
        self._app = app
        self._lifespan = lifespan
        self._stack = stack
        self._asked = False
        self._answered = False

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_after_start() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._asked = True
                await self._start(scope)
            return message

        async def send_after_stop(message: Message) -> None:
            self._answered = True
            if message["type"] != "lifespan.startup.complete":
                await self._stack.aclose()
            await send(message)

        try:
            await self._app(scope, receive_after_start, send_after_stop)
        except Exception:
            if self._asked:
                raise
        if not self._answered:
            await self._speak_for_the_app(scope, receive, send)

    async def _start(self, scope: Scope) -> None:
        state = await self._stack.enter_async_context(self._lifespan(self._app))
        scope.setdefault("state", {}).update(state)

    async def _speak_for_the_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app knows no lifespan: it raised, or returned, without a word."""
        if not self._asked:
            await receive()
            await self._start(scope)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})
