"""Topics within a process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Topics"]

Notify = Callable[[str | None], object]


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    topics: Topics
    topic: str
    loop: asyncio.AbstractEventLoop
    notify: Notify

    async def close(self) -> None:
        self.topics.forget(self)


class Topics:
    """Who listens to what. `publish` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: dict[str, tuple[_Subscription, ...]] = {}

    def listen(self, topic: str, notify: Notify) -> _Subscription:
        """Subscribe the running loop."""
        subscription = _Subscription(self, topic, asyncio.get_running_loop(), notify)
        with self._lock:
            self._by_topic[topic] = (*self._by_topic.get(topic, ()), subscription)
        return subscription

    def publish(self, topic: str, message: str) -> None:
        """Tell everyone who listens."""
        for subscription in self._by_topic.get(topic, ()):
            if not subscription.loop.is_closed():
                subscription.loop.call_soon_threadsafe(subscription.notify, message)

    def forget(self, subscription: _Subscription) -> None:
        """Unsubscribe; twice is harmless."""
        with self._lock:
            rest = tuple(
                each for each in self._by_topic.get(subscription.topic, ()) if each is not subscription
            )
            if rest:
                self._by_topic[subscription.topic] = rest
            else:
                self._by_topic.pop(subscription.topic, None)
