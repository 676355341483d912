"""The verbs of the seam on Redis: each one is one Lua script, one round trip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from concave.clock import Clock, Micros
from concave.store.protocol import Listener
from concave.store.records import (
    Claim,
    Claimed,
    ClaimNames,
    Extended,
    Lease,
    NewTask,
    Query,
    Settled,
    Settlement,
    TaskRecord,
    TaskStatus,
)
from concave.store.redis.client import RedisClient, ScriptCaller, as_sent
from concave.store.redis.locks import RedisLocks
from concave.store.redis.packing import pack, packed_lanes, packed_settlements, packed_tasks
from concave.store.redis.reading import MalformedRecordError, read_claimed, read_handed_out, read_record
from concave.store.redis.schedules import RedisSchedules
from concave.store.redis.topics import RedisTopics, ended_topic

__all__ = ["RedisStore"]

log = logging.getLogger("concave.store")

LETTERS: dict[TaskStatus, str] = {
    "pending": "p",
    "scheduled": "s",
    "running": "r",
    "failed": "f",
    "completed": "c",
    "dead": "d",
    "cancelled": "x",
}


LARGEST_STEP = 1000
"""Tasks in one step: Lua takes no more than some thousands of values at once, and others wait meanwhile."""


class RedisStore:
    """A task store on Redis; see `concave.store.protocol.Store` for what each verb promises."""

    def __init__(
        self,
        client: RedisClient,
        topics: RedisTopics,
        *,
        namespace: str,
        where: str,
        clock: Clock | None = None,
    ) -> None:
        self._scripts = ScriptCaller(client, namespace, where, clock)
        self._topics = topics
        self.in_order = client.in_order
        self._names: tuple[ClaimNames, bytes, str] = ((), pack({}), "\n")
        self.schedules = RedisSchedules(self._scripts)
        self.locks = RedisLocks(self._scripts)

    async def add(self, tasks: Sequence[NewTask]) -> list[str]:
        ids = [new.id for new in tasks]
        if 0 < len(tasks) <= LARGEST_STEP and len(set(ids)) == len(ids):
            plain = packed_lanes(tasks)
            # The short script adds all of them or, where one was added before, none.
            if plain and await self._scripts.call_again("push", plain):
                return ids
        others = await self._scripts.call_again("add", packed_tasks(tasks))
        for index, standing in zip(others[::2], others[1::2], strict=True):
            ids[index - 1] = standing.decode()
        return ids

    async def claim(self, claim: Claim) -> Claimed:
        caps, uncapped = self._packed_names(claim.names)
        names = uncapped if claim.stands else ""
        now, *claimed = await self._scripts.call("claim", _packed_claim(claim), caps, names)
        return _claimed(claimed, claim, int(now))

    async def answers(self, desk: str, take: Callable[[str, Sequence[Lease]], object]) -> Listener:
        def hear(message: bytes | None) -> None:
            if message is not None:
                nonce, worker_id, now, ids, records = read_handed_out(message)
                take(nonce, _leases(ids, records, worker_id, now, nonce))

        return await self._topics.listen(f"leases:{desk}", hear)

    async def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Settled:
        if not settlements:
            return Settled([], await self.claim(claim)) if claim else Settled([])
        accepted: list[bool] = []
        while len(settlements) > LARGEST_STEP:
            accepted += (await self.settle(settlements[:LARGEST_STEP])).accepted
            settlements = settlements[LARGEST_STEP:]
        completions, others, order = packed_settlements(settlements)
        wanted: tuple[bytes | str, ...] = ("", "", "")
        if claim:
            caps, uncapped = self._packed_names(claim.names)
            wanted = _packed_claim(claim), caps, uncapped if claim.stands else ""
        marks, now, *claimed = await self._scripts.call("settle", completions, others, *wanted)
        mark_of = dict(zip(order, marks, strict=True))
        accepted += [mark_of[index] == ACCEPTED for index in range(len(settlements))]
        return Settled(accepted, _claimed(claimed, claim, int(now))) if claim else Settled(accepted)

    async def extend(self, leases: Sequence[Lease], duration: Micros) -> list[Extended]:
        extended: list[Extended] = []
        for start in range(0, len(leases), LARGEST_STEP):
            step = leases[start : start + LARGEST_STEP]
            rows = pack([[lease.task.id, lease.token, lease.task.name] for lease in step])
            marks = await self._scripts.call_again("extend", rows, duration)
            extended.extend(EXTENDED[mark] for mark in marks)
        return extended

    async def reap(self) -> int:
        return int(await self._scripts.call("reap"))

    async def listen(self, topic: str, notify: Callable[[str | None], object]) -> Listener:
        return await self._topics.listen(
            topic, lambda message: notify(None if message is None else message.decode())
        )

    async def ended(self, task_id: str, tell: Callable[[TaskRecord | None], object]) -> Listener:
        def hear(record: bytes | None) -> None:
            # It has ended, so that the time makes no difference to it.
            tell(read_record(task_id.encode(), record, 0) if record else None)

        return await self._topics.listen(ended_topic(task_id), hear)

    async def now(self) -> Micros:
        return int((await self._scripts.call_again("get", ""))[0])

    async def get(self, task_id: str) -> TaskRecord | None:
        now, data, run, progress = await self._scripts.call_again("get", task_id)
        return None if data is None else read_record(task_id.encode(), data, int(now), run, progress)

    async def find(self, query: Query) -> list[TaskRecord]:
        if query.limit < 1:
            return []
        statuses = [LETTERS[status] for status in dict.fromkeys(query.statuses or LETTERS)]
        now, *rows = await self._scripts.call_again(
            "find",
            pack(statuses),
            pack([as_sent(name) for name in dict.fromkeys(query.names)]),
            "" if query.created_after is None else query.created_after + 1,
            "" if query.created_before is None else query.created_before - 1,
            query.limit,
            query.offset,
        )
        columns = zip(rows[::4], rows[1::4], rows[2::4], rows[3::4], strict=True)
        return _readable((task_id, data, int(now), run, progress) for task_id, data, run, progress in columns)

    async def depth(self) -> int:
        return int(await self._scripts.call_again("depth"))

    async def cancel(self, task_id: str) -> bool:
        return bool(await self._scripts.call("cancel", task_id))

    async def abort(self, task_id: str) -> bool:
        return bool(await self._scripts.call_again("abort", task_id))

    async def report(self, lease: Lease, progress: bytes) -> bool:
        return bool(await self._scripts.call_again("report", lease.task.id, lease.token, progress))

    async def tidy(self) -> None:
        await self._scripts.call_again("tidy")

    async def dead(self, limit: int, offset: int) -> list[TaskRecord]:
        now, *rows = await self._scripts.call_again("dead", limit, offset)
        return _readable(
            (task_id, data, int(now)) for task_id, data in zip(rows[::2], rows[1::2], strict=True)
        )

    async def dead_count(self) -> int:
        return int(await self._scripts.call_again("dead_count"))

    async def revive(self, task_id: str, new_id: str) -> str | None:
        return new_id if await self._scripts.call_again("revive", task_id, new_id) else None

    async def purge(self, older_than: Micros) -> int:
        total = 0
        while True:
            looked_at, purged = await self._scripts.call("purge", older_than)
            total += int(purged)
            if not looked_at:
                return total

    def _packed_names(self, names: ClaimNames) -> tuple[bytes, str]:
        """All of them with their caps, and those without one as text."""
        # A worker's names rarely change and are handed over as the same object: pack them once.
        if self._names[0] is not names:
            uncapped = "".join(f"{name}\n" for name, cap in names if not cap)
            self._names = (names, pack(dict(names)), f"\n{uncapped}")
        return self._names[1:]


ACCEPTED = ord("1")
EXTENDED: dict[int, Extended] = {ord("0"): "lost", ord("1"): "held", ord("2"): "aborted"}


def _packed_claim(claim: Claim) -> bytes:
    limit = min(claim.limit, LARGEST_STEP)
    who = [claim.worker_id, limit, claim.lease, claim.nonce, claim.suspects, claim.line]
    return pack([*who, claim.desk, claim.stands, claim.number])


def _claimed(reply: list[Any], claim: Claim, now: Micros) -> Claimed:
    idle_for, stands, *rows = reply
    leases = _leases(rows[::2], rows[1::2], claim.worker_id, now, claim.nonce)
    return Claimed(leases, None if idle_for < 0 else int(idle_for), stands == 1)


def _leases(ids: list[bytes], records: list[bytes], worker_id: str, now: Micros, nonce: str) -> list[Lease]:
    leases: list[Lease] = []
    for task in read_claimed(ids, records, worker_id, now):
        if isinstance(task, MalformedRecordError):
            # Its lease will run out, and whoever reaps it puts it aside.
            log.error("claimed what nobody can run: %s", task)
        elif task is not None:
            leases.append(Lease(task, nonce, task.crashes > 0))
    return leases


def _readable(rows: Any) -> list[TaskRecord]:
    """The records among the rows of a listing; what isn't one is logged and passed over."""
    records: list[TaskRecord] = []
    for task_id, data, *rest in rows:
        try:
            record = None if data is None else read_record(task_id, data, *rest)
        except MalformedRecordError as error:
            log.error("left out of a listing: %s", error)
            continue
        if record is not None:
            records.append(record)
    return records
