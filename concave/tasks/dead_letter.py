"""The dead letter queue: tasks that are out of attempts, to be looked at, run again or forgotten."""

from __future__ import annotations

from concave.errors import ConfigurationError
from concave.kv.protocol import KV
from concave.tasks.model import DeadLetterEntry
from concave.tasks.options import Duration, micros
from concave.tasks.submission import new_task_id

__all__ = ["DeadLetterQueue", "create_dead_letter_queue"]

PAGE = 100


class DeadLetterQueue:
    """The dead letters of a store. Every method is one atomic step, `retry_all` one per task."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def list(self, limit: int = 100, offset: int = 0) -> list[DeadLetterEntry]:
        """Dead tasks, the latest to die first."""
        if limit < 1 or offset < 0:
            raise ConfigurationError(
                f"limit is at least 1 and offset at least 0, not {limit!r} and {offset!r}"
            )
        return [DeadLetterEntry.from_record(record) for record in await self._kv.store.dead(limit, offset)]

    async def get(self, task_id: str) -> DeadLetterEntry | None:
        """The dead letter of a task, or None where it isn't dead."""
        record = await self._kv.store.get(task_id)
        return DeadLetterEntry.from_record(record) if record is not None and record.status == "dead" else None

    async def retry(self, task_id: str) -> str | None:
        """Run a dead task again, as a new one with all its attempts; the new id, or None where it isn't dead.

        The old record is gone then, and the new task's `revived_from` names it. Of two who retry at once, one gets
        the id and the other None.
        """
        return await self._kv.store.revive(task_id, new_task_id())

    async def retry_all(self) -> int:
        """Run all dead tasks again that are dead now; how many."""
        # All ids first: what dies again meanwhile comes first in the list, and isn't meant.
        ids: dict[str, None] = {}
        for offset in range(0, await self.count(), PAGE):
            ids.update((record.id, None) for record in await self._kv.store.dead(PAGE, offset))
        retried = 0
        for task_id in ids:
            retried += await self.retry(task_id) is not None
        return retried

    async def purge(self, older_than: Duration) -> int:
        """Forget the tasks that died more than `older_than` (seconds or a timedelta) ago; how many went.

        Raises `ConfigurationError` for zero, which would be all of them: more likely a missing setting than a wish.
        """
        age = micros(older_than, "older_than")
        if age == 0:
            raise ConfigurationError("older_than must be more than 0 seconds")
        return await self._kv.store.purge(age)

    async def count(self) -> int:
        """How many tasks are dead."""
        return await self._kv.store.dead_count()


def create_dead_letter_queue(kv: KV) -> DeadLetterQueue:
    """The dead letter queue of `kv`."""
    return DeadLetterQueue(kv)
