"""Topics on Redis: one connection per process listens to whatever anyone here wants to hear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from concave.clock import Clock, sleep
from concave.store.protocol import done_topic
from concave.store.redis.client import mapped_errors

__all__ = ["RedisTopics"]

log = logging.getLogger("concave.store")

Notify = Callable[[str | None], object]

DONE = "done"
"""All endings go over one channel, many ids to a message: a channel per task would cost a command per task."""
RECONNECT_PAUSE = 0.1
LONGEST_PAUSE = 2.0
SILENCE = 30.0
"""Seconds after which a silent connection is asked whether it is still there."""


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    topics: RedisTopics
    topic: str
    notify: Notify

    async def close(self) -> None:
        await self.topics.forget(self)


class RedisTopics:
    """Subscriptions of one event loop. A lost connection is made anew, and everyone is told that they may have missed
    something.
    """

    def __init__(self, new_pubsub: Callable[[], Any], namespace: str, where: str, clock: Clock) -> None:
        self._new_pubsub = new_pubsub
        self._namespace = namespace
        self._where = where
        self._clock = clock
        self._subscriptions: list[_Subscription] = []
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: Any = None
        self._reader: asyncio.Task[None] | None = None

    async def listen(self, topic: str, notify: Notify) -> _Subscription:
        """Subscribe; returns once the server has confirmed it, so that nothing after that is missed."""
        subscription = _Subscription(self, topic, notify)
        self._subscriptions.append(subscription)
        channel = self._channel(topic)
        confirmed = self._confirmed.setdefault(channel, asyncio.Event())
        try:
            with mapped_errors(self._where):
                if self._pubsub is None:
                    self._pubsub = self._new_pubsub()
                    await self._pubsub.subscribe(*self._confirmed)
                    self._reader = asyncio.create_task(self._read(), name="concave-topics")
                elif not confirmed.is_set():
                    await self._pubsub.subscribe(channel)
        except BaseException:
            self._subscriptions.remove(subscription)
            raise
        await confirmed.wait()
        return subscription

    async def forget(self, subscription: _Subscription) -> None:
        """Unsubscribe; twice is harmless."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        channel = self._channel(subscription.topic)
        if any(self._channel(each.topic) == channel for each in self._subscriptions):
            return
        del self._confirmed[channel]
        if self._pubsub is not None:
            try:
                await self._pubsub.unsubscribe(channel)
            except (RedisError, OSError) as error:
                log.debug("could not unsubscribe, the connection is gone: %s", error)

    async def close(self) -> None:
        """End all subscriptions and the connection."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._pubsub is not None:
            await self._pubsub.aclose()
        self._reader = self._pubsub = None
        self._subscriptions.clear()
        self._confirmed.clear()

    def _channel(self, topic: str) -> str:
        return self._namespace + (DONE if topic.startswith(done_topic("")) else topic)

    async def _read(self) -> None:
        pause = RECONNECT_PAUSE
        while True:
            try:
                message = await self._pubsub.get_message(timeout=SILENCE)
                if message is None:
                    await self._pubsub.ping()
                else:
                    self._deliver(message)
                pause = RECONNECT_PAUSE
            except (RedisError, OSError) as error:
                log.warning("%s: lost the connection that listens (%s); trying again", self._where, error)
                pause = await self._reconnect(pause)

    def _deliver(self, message: dict[str, Any]) -> None:
        channel = (message["channel"] or b"").decode()
        if message["type"] == "subscribe" and channel in self._confirmed:
            self._confirmed[channel].set()
        if message["type"] != "message":
            return
        topic, data = channel.removeprefix(self._namespace), message["data"].decode()
        if topic == DONE:
            ended = set(data.split("\n"))
            for each in list(self._subscriptions):
                task_id = each.topic.removeprefix(done_topic(""))
                if task_id in ended and task_id != each.topic:
                    each.notify(task_id)
            return
        for each in list(self._subscriptions):
            if each.topic == topic:
                each.notify(data)

    async def _reconnect(self, pause: float) -> float:
        await self._pubsub.aclose()
        await sleep(self._clock, pause)
        self._pubsub = self._new_pubsub()
        if self._confirmed:
            await self._pubsub.subscribe(*self._confirmed)
        for each in list(self._subscriptions):
            each.notify(None)
        return min(LONGEST_PAUSE, pause * 2)
