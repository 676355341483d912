"""What a namespace on Redis looks like when nothing is wrong with it.

A key without an expiry must be live work: whatever else is left behind would stay for ever. And each index must tell of
what there is, no more and no less: an entry too many is a leak as well, one too few is a task that nobody will find.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis

from concave.store.redis.reading import MalformedRecordError, _values, read_record

Scores = dict[str, dict[str, float]]

SPACER = " " * 65
"""What stands beside what runs, as `lua/lib/leasing.lua` has it."""
SPAN = 1_000_000
"""Microseconds within which tasks of a block were created, as `lua/lib/blocks.lua` has it."""


async def check_for_leaks(redis_url: str, prefix: str) -> None:
    async with Redis.from_url(redis_url) as client:
        namespace = await _read(client, prefix)
    assert namespace.problems() == []


def problems_of_server(redis_url: str, prefixes: str = "") -> list[str]:
    """What is wrong with the namespaces of a server, of those whose prefix begins so; and forget them.

    For those who have no event loop, or one that they can't wait in.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _problems_of_server(redis_url, prefixes)).result()


async def _problems_of_server(redis_url: str, prefixes: str) -> list[str]:
    found: list[str] = []
    async with Redis.from_url(redis_url) as client:
        names = {
            key[1:].partition(b"}:")[0].decode()
            async for key in client.scan_iter(match=f"{{{prefixes}*}}:*", count=1000)
        }
        for name in sorted(names):
            found += [f"{name}: {problem}" for problem in (await _read(client, name)).problems()]
            await drop_namespace(redis_url, name)
    return found


async def keys_of(redis_url: str, prefix: str) -> list[bytes]:
    async with Redis.from_url(redis_url) as client:
        return sorted({key async for key in client.scan_iter(match=f"{{{prefix}}}:*", count=1000)})


async def drop_namespace(redis_url: str, prefix: str) -> None:
    keys = await keys_of(redis_url, prefix)
    async with Redis.from_url(redis_url) as client:
        for start in range(0, len(keys), 1000):
            await client.delete(*keys[start : start + 1000])


class Block(NamedTuple):
    """Completed tasks that are one member of an index, and the score of that."""

    score: float
    expires: int
    size: int
    span: int
    ids: list[str]
    ages: list[int]
    """How much older each is than the newest."""


@dataclass
class Namespace:
    """All keys of a namespace, by what they are. A lane is a queue of one bucket, name and kind."""

    other: list[str] = field(default_factory=list[str])
    lasting: set[str] = field(default_factory=set[str])
    tasks: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    zsets: Scores = field(default_factory=Scores)
    hashes: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    holders: dict[str, str] = field(default_factory=dict[str, str])
    damaged: set[str] = field(default_factory=set[str])
    """Tasks that nobody can read: what they leave behind can't be told from what they have."""
    batches: dict[str, tuple[float, list[str]]] = field(default_factory=dict[str, tuple[float, list[str]]])
    blocks: dict[str, list[Block]] = field(default_factory=dict[str, list["Block"]])
    """Of each index of blocks."""

    def problems(self) -> list[str]:
        found = [f"unknown key {name}" for name in self.other]
        live = self._waiting() | self._running()
        found += [f"{name} never ends" for name in sorted(self.lasting) if not self._is_live(name, live)]
        found += self._problems_of_waiting() + self._problems_of_running() + self._problems_of_the_ended()
        return found + self._problems_of_schedules()

    def _is_live(self, name: str, live: set[str]) -> bool:
        kind, _, rest = name.partition(":")
        if kind == "t":
            return rest in live
        if kind in {"k", "b"}:
            return self.holders[name] in live or self.holders[name] in self.damaged
        if kind == "x":
            return rest[0] in "sf"
        return kind in {"q", "a", "d", "due", "l", "ldue", "run", "abort", "prog", "sched", "slots"}

    def _of(self, kind: str) -> Mapping[str, dict[str, float]]:
        """The sorted sets of a kind, by the rest of their name."""
        return {
            name.removeprefix(kind): members for name, members in self.zsets.items() if name.startswith(kind)
        }

    def _waiting(self) -> set[str]:
        return {task for kind in ("q:", "d:") for members in self._of(kind).values() for task in members}

    def _running(self) -> set[str]:
        return {task for members in self._of("l:").values() for task in members}

    def _problems_of_waiting(self) -> list[str]:
        found: list[str] = []
        due, delayed = self._of("q:"), self._of("d:")
        places = [
            task for kind in (due, delayed, self._of("l:")) for members in kind.values() for task in members
        ]
        found += _differences("places", places, set(places))
        found += _differences("records that last", self._lasting_tasks(), places)
        active = {
            lane
            for bucket in range(4)
            for lane in self.zsets.get(f"a:{bucket}", {})
            if lane[0] == f"{bucket}"
        }
        found += _differences("active lanes", active, due)
        found += _differences("lanes by due time", self.zsets.get("due", {}), delayed)
        for lane, members in delayed.items():
            if self.zsets.get("due", {}).get(lane, 0) > min(members.values()):
                found.append(f"lane {lane} is due before its time in the index")
        for lane, members in [*due.items(), *delayed.items()]:
            for task, score in members.items():
                if task in self.damaged or task not in self.tasks:
                    continue
                (created, due_at, _, _, crashes, *_), (name, priority, *_), *_ = self.tasks[task]
                expected = f"{min(priority // 25, 3)}{'s' if crashes else 'n'}:{name.decode()}"
                if lane != expected or score != (created if lane in due and task in due[lane] else due_at):
                    found.append(f"{task} waits in {lane} at {score}, not in {expected}")
        for name in {lane[3:] for lane in delayed} | set(self._of("x:s:")) | set(self._of("x:f:")):
            listed = [*self._of("x:s:").get(name, {}), *self._of("x:f:").get(name, {})]
            waits = [task for lane, members in delayed.items() if lane[3:] == name for task in members]
            found += _differences(f"index of {name} by creation", listed, waits)
        return found

    def _problems_of_running(self) -> list[str]:
        leases, running = self._of("l:"), self.hashes.get("run", {})
        found = _differences("runs", running, self._running())
        found += _differences("names by lease", self.zsets.get("ldue", {}), leases)
        for name, members in leases.items():
            if members and self.zsets.get("ldue", {}).get(name, 0) > min(members.values()):
                found.append(f"a lease of {name} runs out before its time in the index")
        for kind in ("abort", "prog"):
            found += [
                f"{kind} of {task}, which doesn't run"
                for task in self.hashes.get(kind, {})
                if task not in running
            ]
        return found

    def _problems_of_the_ended(self) -> list[str]:
        found: list[str] = []
        listed: dict[str, list[str]] = defaultdict(list)
        for batch, (first, members) in self.batches.items():
            status, _, name = batch.split(":", 2)
            listed[f"{status}:{name}"] += members
            if self.zsets.get("ended", {}).get(batch, 0) > first:
                found.append(f"batch {batch} expires before its time in the index")
        found += _differences("batches", self.zsets.get("ended", {}), self.batches)
        indexed = {name: set(members) for name, members in self._of("x:").items() if name[0] in "bcdx"}
        for name in indexed.keys() | listed.keys():
            # What was revived or purged is left to its batch, which ends in its time.
            gone = set(listed[name]) - indexed.get(name, set()) if name[0] == "d" else set[str]()
            found += _differences(f"index {name}", indexed.get(name, ()), set(listed[name]) - gone)
        found += [
            f"{block} in {name}"
            for name, blocks in self.blocks.items()
            for block in blocks
            if not _is_whole(block)
        ]
        dead = {task for name, members in indexed.items() if name[0] == "d" for task in members}
        return found + _differences(
            "the dead", self.zsets.get("dead", {}).keys() - self.damaged, dead - self.damaged
        )

    def _lasting_tasks(self) -> list[str]:
        return [name[2:] for name in self.lasting if name.startswith("t:")]

    def _problems_of_schedules(self) -> list[str]:
        bodies = {name[6:]: row for name, row in self.hashes.items() if name.startswith("sched:")}
        enabled = {name: float(row["next"]) for name, row in bodies.items() if row["enabled"] == b"1"}
        found = _differences("schedules", self.zsets.get("sched", {}), bodies)
        found += [] if self.zsets.get("slots", {}) == enabled else ["slots are not those of the schedules"]
        return found


def _is_whole(block: Block) -> bool:
    return (
        block.size == len(block.ids) == len(set(block.ids)) == len(block.ages)
        and (min(block.ages), max(block.ages)) == (0, block.span)
        and block.span <= SPAN
    )


def _differences(what: str, given: Iterable[str], expected: Iterable[str]) -> list[str]:
    left, right = sorted(given), sorted(expected)
    return [] if left == right else [f"{what}: {left[:20]}, not {right[:20]}"]


async def _read(client: Any, prefix: str) -> Namespace:
    namespace = Namespace()
    start = f"{{{prefix}}}:"
    keys = sorted({key async for key in client.scan_iter(match=f"{start}*", count=1000)})
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
        pipe.pttl(key)
    answers = await pipe.execute()
    for key, type_, ttl in zip(keys, answers[::2], answers[1::2], strict=True):
        name = key.decode().removeprefix(start)
        if ttl == -1:
            namespace.lasting.add(name)
        await _read_key(client, namespace, key, name, type_.decode())
    _take_out_spacers(namespace)
    return namespace


def _take_out_spacers(namespace: Namespace) -> None:
    kept: list[tuple[str, dict[str, Any]]] = [
        (name, members) for name, members in namespace.zsets.items() if name.startswith("l:")
    ]
    kept += [("run", members) for name, members in namespace.hashes.items() if name == "run"]
    for name, members in kept:
        if members.pop(SPACER, None) is None:
            namespace.other.append(f"{name}, without its spacer")
        elif not members:
            namespace.other.append(f"{name}, with nothing but a spacer")


async def _read_key(client: Any, namespace: Namespace, key: bytes, name: str, type_: str) -> None:
    kind = name.partition(":")[0]
    if type_ == "zset" and name.startswith("x:b:"):
        heads = await client.zrange(key, 0, -1, withscores=True)
        tasks = await client.hgetall(key.replace(b"}:x:b:", b"}:y:"))
        blocks = [_block(score, *_values(head), *_values(tasks.pop(head, b""))) for head, score in heads]
        namespace.other += [f"{tasks} beside {name}"] if tasks else []
        namespace.blocks[name] = blocks
        # Batches tell of blocks by their scores.
        namespace.zsets[name] = {f"{block.score:.0f}": block.score for block in blocks}
    elif type_ == "zset":
        namespace.zsets[name] = {
            member.decode(): score for member, score in await client.zrange(key, 0, -1, withscores=True)
        }
    elif kind == "y":
        namespace.other += [] if f"x:b:{name[2:]}" in namespace.blocks else [name]
    elif type_ == "hash":
        namespace.hashes[name] = {
            member.decode(): value for member, value in (await client.hgetall(key)).items()
        }
    elif type_ == "list" and kind == "e":
        entries = [_values(entry) for entry in await client.lrange(key, 0, -1)]
        members = [
            member.decode() if isinstance(member, bytes) else str(member)
            for _, *members in entries
            for member in members
        ]
        namespace.batches[name[2:]] = (entries[0][0], members)
    elif kind == "bad":
        namespace.damaged.add(name[4:])
    elif kind == "t":
        data = await client.get(key)
        try:
            read_record(b"", data, 0)
        except MalformedRecordError:
            namespace.damaged.add(name[2:])
        else:
            namespace.tasks[name[2:]] = _values(data)
    elif kind in {"k", "b"}:
        value = await client.get(key)
        namespace.holders[name] = (_values(value)[0] if kind == "k" else value).decode()
    elif kind not in {"o", "s", "w", "lock"}:
        namespace.other.append(name)


def _block(score: float, expires: int, size: int, span: int, one: bytes, *tasks: Any) -> Block:
    ids = [task.decode() for task in tasks[::2]]
    return Block(score, expires, size, span, ids if one.decode() in ids else [], list(tasks[1::2]))
