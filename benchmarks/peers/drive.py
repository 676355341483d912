"""Sends requests to an ASGI app in this very process, without a server: what a web process under measure does.

In-process, because a server and a client cost every app the same: over a socket the slow would look nearer to the fast than
they are. Runs in every peer's own environment, so it needs the standard library alone. It prints its figures as one line of JSON.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

WARM_UP = 0.5
"""Seconds of requests that don't count."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a peer wants it sent."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    status: int = 200


async def send(app: App, call: Call, state: dict[str, Any]) -> bytes:
    """Send one request; the body of its answer, which must have the status that is expected."""
    headers = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"user-agent", b"benchmark")]
    if call.body:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(call.body))]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": call.method,
        "scheme": "http", "path": call.path, "raw_path": call.path.encode(), "query_string": call.query.encode(),
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": dict(state),
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": call.body, "more_body": False}])
    status, parts = 0, list[bytes]()

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    async def respond(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, respond)
    body = b"".join(parts)
    if status != call.status:
        raise RuntimeError(f"{call.method} {call.path} answered {status}: {body[:500]!r}")
    return body


async def measure(
    app: App, calls: Iterator[Call], seconds: float, width: int, state: dict[str, Any]
) -> dict[str, Any]:
    """`width` clients that each send one request after the other, for so many seconds."""
    shown = (await send(app, next(calls), state)).decode()
    await _run(app, calls, WARM_UP, width, state)
    start, cpu = time.perf_counter(), time.process_time()
    count = await _run(app, calls, seconds, width, state)
    took, used = time.perf_counter() - start, time.process_time() - cpu
    return {"count": count, "seconds": took, "cpu": used, "shown": shown}


async def _run(app: App, calls: Iterator[Call], seconds: float, width: int, state: dict[str, Any]) -> int:
    end = time.perf_counter() + seconds
    count = 0

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await send(app, next(calls), state)
            count += 1

    await asyncio.gather(*(client() for _ in range(width)))
    return count


class Lifespan:
    """An app's own start and end, for those that have one."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> dict[str, Any]:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self._task = asyncio.create_task(self._app(scope, self._inbox.get, self._outbox.put))  # type: ignore[arg-type]
        await self._say("startup")
        return self.state

    async def __aexit__(self, *_: object) -> None:
        await self._say("shutdown")

    async def _say(self, word: str) -> None:
        await self._inbox.put({"type": f"lifespan.{word}"})
        answer = await self._outbox.get()
        if answer["type"] != f"lifespan.{word}.complete":
            raise RuntimeError(str(answer))


def get(rows: int) -> Iterator[Call]:
    """Rows by their ids."""
    return (Call("GET", f"/users/{1 + number % rows}") for number in itertools.count())


def page(query: str) -> Iterator[Call]:
    """A page of 20."""
    return itertools.repeat(Call("GET", "/users", query))


def post(status: int = 201) -> Iterator[Call]:
    """New rows."""
    for number in itertools.count(1):
        body = json.dumps(
            {
                "email": f"new-{number}@example.com",
                "name": "Ada Lovelace",
                "role": "admin",
                "age": 36,
                "score": 0.5,
            }
        )
        yield Call("POST", "/users", body=body.encode(), status=status)


async def walk(app: App, depth: int, query: str) -> dict[str, Any]:
    """Pages, one after the other, until so many rows were seen: of ours alone."""
    seen, cursor = 0, ""
    while seen < depth:
        page = json.loads(
            await send(app, Call("GET", "/users", f"{query}&cursor={cursor}" if cursor else query), {})
        )
        seen, cursor = seen + len(page["items"]), page["nextCursor"]
    return {"cursor": cursor}


def main(app: App, *, page_query: str, rows: int = 1000, post_status: int = 201) -> None:
    """`app.py get|page|post SECONDS WIDTH [QUERY]`, or `app.py walk DEPTH QUERY`."""
    if sys.argv[1] == "walk":
        print(json.dumps(asyncio.run(walk(app, int(sys.argv[2]), sys.argv[3]))))
        return
    way, seconds, width = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    query = sys.argv[4] if len(sys.argv) > 4 else page_query
    calls = {"get": get(rows), "page": page(query), "post": post(post_status)}[way]

    async def run() -> dict[str, Any]:
        async with Lifespan(app) as state:
            return await measure(app, calls, seconds, width, state)

    print(json.dumps(asyncio.run(run())))
