"""Topics on Redis: one connection per process listens to whatever anyone here wants to hear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from concave.clock import Clock, Timer, sleep
from concave.errors import StoreUnavailableError
from concave.store.protocol import done_topic
from concave.store.redis.client import DRIVERS, as_sent, mapped_errors, ours
from concave.store.redis.reading import read_told
from concave.store.redis.wire import Wire, Wires

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
"""Seconds from one question whether the server is still there to the next; where nothing came in between, it isn't."""


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

    def __init__(self, wires: Wires, namespace: str, where: str, clock: Clock) -> None:
        self._wires = wires
        self._namespace = namespace
        self._where = where
        self._clock = clock
        self._subscriptions: list[_Subscription] = []
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._wire: Wire | None = None
        self._heard = False
        """Whether anything came since it was last asked for something."""
        self._pause = RECONNECT_PAUSE
        self._asking: Timer | None = None
        self._lingering: Timer | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._closed = False
        # One at a time connects or disconnects.
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
                if self._wire is None:
                    with mapped_errors(self._where):
                        await self._connect()
                elif not confirmed.done():
                    self._wire.send("SUBSCRIBE", channel)
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
            if not self._confirmed:
                await self._disconnect()
            elif self._wire is not None and channel not in self._confirmed:
                self._wire.send("UNSUBSCRIBE", channel)

    async def close(self) -> None:
        """End all subscriptions and the connection, for good."""
        self._closed = True
        if self._lingering is not None:
            self._lingering.cancel()
        running = [task for task in (self._reconnecting, self._leaving) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._disconnect()
        self._refuse_the_unconfirmed(RedisConnectionError("it was closed"))
        self._subscriptions.clear()
        self._confirmed.clear()

    def _channel(self, topic: str) -> str:
        return self._namespace + (DONE if topic.startswith((done_topic(""), ENDED)) else topic)

    async def _connect(self) -> None:
        wire = await self._wires.open(self._hear, self._lost)
        if self._closed:  # meanwhile, and nobody would close this one
            self._wires.drop(wire)
            await self._wires.close()
            raise RedisConnectionError("it was closed")
        self._wire = wire
        self._wire.send("SUBSCRIBE", *self._confirmed)
        self._ask()

    async def _disconnect(self) -> None:
        self._let_go()
        with suppress(*DRIVERS):
            await self._wires.close()

    def _let_go(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        if self._wire is not None:
            wire, self._wire = self._wire, None
            self._wires.drop(wire)

    def _ask(self) -> None:
        """Ask the server now and then whether it is there: behind a firewall that forgot the connection, nobody tells otherwise."""
        self._heard = False
        self._asking = self._clock.call_later(SILENCE, self._was_anything_heard)

    def _was_anything_heard(self) -> None:
        if self._wire is None:
            return
        if not self._heard:
            self._lost(self._wire, RedisConnectionError("it is silent"))
            return
        self._wire.send("PING")
        self._ask()

    def _lost(self, wire: Wire, error: Exception | None) -> None:
        if wire is not self._wire:
            return
        self._let_go()
        self._failed(error or RedisConnectionError("it was closed"))
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.create_task(self._reconnect(), name="concave-topics")

    async def _reconnect(self) -> None:
        """Connect again, until nobody listens any more."""
        while self._confirmed and self._wire is None:
            await sleep(self._clock, self._pause)
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            try:
                async with self._changing:
                    if self._confirmed and self._wire is None:
                        await self._connect()
            except Exception as error:  # noqa: BLE001  a provider of credentials may raise anything, and they would listen no more
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        log.warning("%s: lost the connection that listens (%s); trying again", self._where, error)
        self._refuse_the_unconfirmed(error)

    def _refuse_the_unconfirmed(self, error: Exception) -> None:
        for confirmed in self._confirmed.values():
            if not confirmed.done():
                confirmed.set_exception(
                    ours(error, self._where)
                    if isinstance(error, DRIVERS)
                    else StoreUnavailableError(f"{self._where} doesn't answer: {error}")
                )
                confirmed.exception()  # it counts as seen, also where whoever waited for it has left

    def _hear(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, Exception):
            if self._wire is not None:
                self._lost(self._wire, reply)
            return
        # Of three values, unless it is the answer to the question whether the server is there.
        told: tuple[bytes, bytes, bytes] = tuple(reply) if len(reply) == 3 else (b"", b"", b"")
        kind, channel, data = told
        if kind == b"message":
            self._deliver(channel.decode().removeprefix(self._namespace), data)
        elif kind == b"subscribe":
            self._pause = RECONNECT_PAUSE
            self._subscribed(channel.decode())

    def _deliver(self, topic: str, data: bytes) -> None:
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
            task_id = as_sent(rest)
            if task_id in ended and kind in {"done", "ended"}:
                self._tell(each, records.get(task_id, b"") if kind == "ended" else task_id)

    def _subscribed(self, channel: str) -> None:
        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            return  # nobody wants it any more
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
