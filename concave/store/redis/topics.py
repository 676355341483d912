"""Topics on Redis: one connection per process listens to whatever anyone here wants to hear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError, RedisError

from concave.clock import Clock, Timer, sleep
from concave.errors import StoreUnavailableError
from concave.store.protocol import done_topic
from concave.store.redis.client import heeding_cancellation, mapped_errors
from concave.store.redis.codec import read_told

__all__ = ["RedisTopics", "ended_topic"]

log = logging.getLogger("concave.store")

Notify = Callable[[bytes | None], object]

DONE = "done"
"""All endings go over one channel, many ids to a message: a channel per task would cost a command per task."""
LINGER = 5.0
"""Seconds that a process goes on hearing of endings when nobody waits for one: to subscribe is a trip, and the next who waits
spares it."""
ENDED = "ended:"


def ended_topic(task_id: str) -> str:
    """A message here is the record of this task, which has ended; empty where it is to be looked up."""
    return ENDED + task_id


RECONNECT_PAUSE = 0.1
LONGEST_PAUSE = 2.0
SILENCE = 30.0
"""Seconds after which a silent connection is asked whether it is still there, and after which no answer means that it isn't."""


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    topics: RedisTopics
    topic: str
    notify: Notify

    async def close(self) -> None:
        await self.topics.forget(self)


class RedisTopics:
    """Subscriptions of one event loop.

    A lost connection is made anew, and everyone is told that they may have missed something.
    """

    def __init__(
        self, new_pubsub: Callable[[], Awaitable[Any]], namespace: str, where: str, clock: Clock
    ) -> None:
        self._new_pubsub = new_pubsub
        self._namespace = namespace
        self._where = where
        self._clock = clock
        self._subscriptions: list[_Subscription] = []
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._pubsub: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._lingering: Timer | None = None
        self._leaving: asyncio.Task[None] | None = None
        # One at a time connects, subscribes or disconnects.
        self._changing = asyncio.Lock()

    async def listen(self, topic: str, notify: Notify) -> _Subscription:
        """Subscribe; returns once the server has confirmed it, so that nothing after that is missed.

        Raises `StoreUnavailableError` where it doesn't, and then nobody has subscribed.
        """
        subscription = _Subscription(self, topic, notify)
        self._subscriptions.append(subscription)
        channel = self._channel(topic)
        confirmed = self._confirmed.setdefault(channel, asyncio.get_running_loop().create_future())
        try:
            async with self._changing:
                with heeding_cancellation(), mapped_errors(self._where):
                    if self._pubsub is None:
                        await self._connect()
                    elif not confirmed.done():
                        await self._pubsub.subscribe(channel)
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read(), name="concave-topics")
            await asyncio.shield(confirmed)
        except BaseException:
            await self.forget(subscription)
            raise
        return subscription

    async def forget(self, subscription: _Subscription) -> None:
        """Unsubscribe; twice is harmless."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        channel = self._channel(subscription.topic)
        if self._is_heard(channel):
            return
        if channel == self._namespace + DONE and _is_confirmed(self._confirmed[channel]):
            self._linger(channel)
        else:
            await self._leave(channel)

    def _is_heard(self, channel: str) -> bool:
        return any(self._channel(each.topic) == channel for each in self._subscriptions)

    def _linger(self, channel: str) -> None:
        def leave() -> None:
            self._leaving = asyncio.create_task(self._leave(channel), name="concave-topics")

        if self._lingering is not None:
            self._lingering.cancel()
        self._lingering = self._clock.call_later(LINGER, leave)

    async def _leave(self, channel: str) -> None:
        """Unsubscribe, unless somebody listens by now."""
        if self._is_heard(channel) or self._confirmed.pop(channel, None) is None:
            return
        async with self._changing:
            if self._pubsub is not None and channel not in self._confirmed:
                try:
                    with heeding_cancellation():
                        await self._pubsub.unsubscribe(channel)
                except (RedisError, OSError) as error:
                    log.debug("could not unsubscribe, the connection is gone: %s", error)

    async def close(self) -> None:
        """End all subscriptions and the connection."""
        if self._lingering is not None:
            self._lingering.cancel()
        running = [task for task in (self._reader, self._leaving) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._disconnect()
        self._reader = None
        self._refuse_the_unconfirmed(RedisConnectionError("it was closed"))
        self._subscriptions.clear()
        self._confirmed.clear()

    def _channel(self, topic: str) -> str:
        return self._namespace + (DONE if topic.startswith((done_topic(""), ENDED)) else topic)

    async def _connect(self) -> None:
        pubsub = await self._new_pubsub()
        try:
            await pubsub.subscribe(*self._confirmed)
        except BaseException:
            with suppress(RedisError, OSError):
                await pubsub.aclose()
            raise
        self._pubsub = pubsub

    async def _disconnect(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(RedisError, OSError):
                await pubsub.aclose()

    async def _read(self) -> None:
        """Deliver what comes, until nobody listens any more."""
        pause = RECONNECT_PAUSE
        while True:
            try:
                with heeding_cancellation():
                    async with self._changing:
                        if not self._confirmed:
                            await self._disconnect()
                            self._reader = None
                            return
                        if self._pubsub is None:
                            await self._connect()
                    await self._read_message()
                pause = RECONNECT_PAUSE
            except (RedisError, OSError) as error:
                log.warning("%s: lost the connection that listens (%s); trying again", self._where, error)
                async with self._changing:
                    await self._disconnect()
                    self._refuse_the_unconfirmed(error)
                await sleep(self._clock, pause)
                pause = min(LONGEST_PAUSE, pause * 2)

    def _refuse_the_unconfirmed(self, error: Exception) -> None:
        for confirmed in self._confirmed.values():
            if not confirmed.done():
                confirmed.set_exception(StoreUnavailableError(f"{self._where} doesn't answer: {error}"))
                confirmed.exception()  # it counts as seen, also where whoever waited for it has left

    async def _read_message(self) -> None:
        message = await self._pubsub.get_message(timeout=SILENCE)
        if message is None:
            await self._pubsub.ping()
            message = await self._pubsub.get_message(timeout=SILENCE)
            if message is None:
                raise RedisConnectionError("it is silent")
        self._deliver(message)

    def _deliver(self, message: dict[str, Any]) -> None:
        channel = (message["channel"] or b"").decode()
        if message["type"] == "subscribe" and channel in self._confirmed:
            self._subscribed(channel)
        if message["type"] != "message":
            return
        topic, data = channel.removeprefix(self._namespace), message["data"]
        if topic == DONE:
            self._deliver_endings(data)
            return
        for each in list(self._subscriptions):
            if each.topic == topic:
                self._tell(each, data)

    def _deliver_endings(self, data: bytes) -> None:
        ids, _, told = data.partition(b"\0")
        ended = set(ids.split(b"\n"))
        records = read_told(told)
        for each in list(self._subscriptions):
            kind, _, rest = each.topic.partition(":")
            task_id = rest.encode()
            if task_id in ended and kind in {"done", "ended"}:
                self._tell(each, records.get(task_id, b"") if kind == "ended" else task_id)

    def _subscribed(self, channel: str) -> None:
        confirmed = self._confirmed[channel]
        if not confirmed.done():
            confirmed.set_result(None)
            return
        # Again: the connection is a new one. Told before the server has it, they might still miss something after that.
        for each in list(self._subscriptions):
            if self._channel(each.topic) == channel:
                self._tell(each, None)

    def _tell(self, subscription: _Subscription, message: bytes | None) -> None:
        if subscription not in self._subscriptions:
            return  # one that was told before it has closed it
        try:
            subscription.notify(message)
        except Exception as error:  # noqa: BLE001  it harms no other listener, and is its loop's to report
            context = {"message": f"a listener to {subscription.topic} raised", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


def _is_confirmed(confirmed: asyncio.Future[None]) -> bool:
    return confirmed.done() and not confirmed.cancelled() and confirmed.exception() is None
