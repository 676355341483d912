"""A key without an expiry must be live work: whatever else a test leaves behind would stay for ever."""

import re
from typing import Any

from redis.asyncio import Redis

LIVE_WORK = re.compile(
    r"(q:|a:\d|d:|due$|l:|ldue$|run$|abort$|prog$|sched(:|$))"  # waiting, running, and schedules
)


async def check_for_leaks(redis_url: str, prefix: str) -> None:
    async with Redis.from_url(redis_url) as client:
        waiting = await _ids_of_live_tasks(client, prefix)
        leaked: list[str] = []
        async for key in client.scan_iter(match=f"{{{prefix}}}:*"):
            name = key.decode().removeprefix(f"{{{prefix}}}:")
            if await client.pttl(key) != -1 or LIVE_WORK.match(name):
                continue
            if name.startswith("t:") and name[2:] in waiting:
                continue
            if name.startswith(("k:", "b:", "x:s:", "x:f:")) and waiting:
                continue
            leaked.append(name)
        assert leaked == []


async def drop_namespace(redis_url: str, prefix: str) -> None:
    async with Redis.from_url(redis_url) as client:
        keys = [key async for key in client.scan_iter(match=f"{{{prefix}}}:*", count=1000)]
        if keys:
            await client.delete(*keys)


async def _ids_of_live_tasks(client: Any, prefix: str) -> set[str]:
    live = {field.decode() for field in await client.hkeys(f"{{{prefix}}}:run")}
    for kind in ("q", "d"):
        async for key in client.scan_iter(match=f"{{{prefix}}}:{kind}:*"):
            live |= {member.decode() for member in await client.zrange(key, 0, -1)}
    return live
