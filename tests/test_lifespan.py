"""`task_lifespan` and `TaskMiddleware`: what runs beside an app, from its start to its end."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from concave import (
    ConfigurationError,
    Schedule,
    StoreUnavailableError,
    TaskContext,
    TaskMiddleware,
    TaskRegistry,
    TasksNotInitializedError,
    create_kv,
    define_task,
    get_task_registry,
    get_task_scheduler,
    task_lifespan,
)
from concave.kv import MemoryKV
from concave.middleware import Message, Receive, Scope, Send
from concave.store.records import NewTask
from concave.tasks import create_recurring_manager
from concave.tasks.defaults import announce_outbox
from concave.tasks.outbox import Submit
from concave.tasks.submission import submission
from tests.servers import free_port


@define_task(name="greet")
async def greet(ctx: TaskContext, name: str) -> str:
    return f"hello {name}"


async def test_it_runs_tasks_and_is_the_default_while_it_runs() -> None:
    async with task_lifespan(tasks=[greet])() as state:
        assert get_task_scheduler() is state["scheduler"]
        assert get_task_registry().get("greet") is greet
        task = await state["scheduler"].wait(await get_task_scheduler().enqueue(greet, "Ada"))
        assert task is not None
        assert task.result == "hello Ada"
    with pytest.raises(TasksNotInitializedError):
        get_task_scheduler()


async def test_two_lifespans_in_one_process_have_a_registry_each() -> None:
    async with task_lifespan(tasks=[greet])() as outer, task_lifespan()() as inner:
        assert get_task_registry().get_all() == []
        assert get_task_scheduler() is inner["scheduler"]
        assert outer["scheduler"] is not inner["scheduler"]
    with pytest.raises(TasksNotInitializedError):
        get_task_scheduler()


async def test_a_registry_that_is_given_is_used() -> None:
    registry = TaskRegistry()
    async with task_lifespan(tasks=[greet], registry=registry)():
        assert registry.get("greet") is greet
        assert get_task_registry() is registry


async def test_a_kv_that_is_given_stays_open_and_a_url_is_closed() -> None:
    async with MemoryKV() as kv:
        async with task_lifespan(kv, tasks=[greet])():
            pass
        assert kv.loop is asyncio.get_running_loop()
    lifespan = task_lifespan("memory://", tasks=[greet])
    async with lifespan(), lifespan():
        pass  # each time it is entered it opens a connection of its own


async def test_the_apps_own_lifespan_runs_inside_and_its_state_reaches_handlers_and_requests() -> None:
    story: list[str] = []

    @define_task(name="tell")
    async def tell(ctx: TaskContext) -> str:
        return str(ctx.state["client"])

    @asynccontextmanager
    async def own(app: Any) -> AsyncGenerator[dict[str, str]]:
        story.append(f"enter {type(app).__name__}")
        await get_task_scheduler().enqueue(tell)
        yield {"client": "the client"}
        story.append("leave")
        await get_task_scheduler().enqueue(tell)  # still there for what has to be said at the end

    async def endpoint(request: Request) -> PlainTextResponse:
        task = await request.state.scheduler.wait(await request.state.scheduler.enqueue(tell))
        return PlainTextResponse(f"{request.state.client} {task.result}")

    app = Starlette(routes=[Route("/", endpoint)], lifespan=task_lifespan(tasks=[tell], lifespan=own))
    async with _served(app) as client:
        assert (await client.get("/")).text == "the client the client"
    assert story == ["enter Starlette", "leave"]


async def test_schedules_are_declared_once_however_often_it_starts() -> None:
    async with MemoryKV() as kv:
        lifespan = task_lifespan(
            kv, schedules=[Schedule(greet, "Ada", cron="0 6 * * *", timezone="Europe/Paris")]
        )
        for _ in range(3):
            async with lifespan():
                assert get_task_registry().get("greet") is greet
        (schedule,) = await create_recurring_manager(kv).list()
        assert (schedule.task_name, schedule.input, schedule.timezone) == ("greet", "Ada", "Europe/Paris")


async def test_schedules_fire() -> None:
    ran = asyncio.Event()

    @define_task(name="tick")
    async def tick(ctx: TaskContext) -> None:
        ran.set()

    async with task_lifespan(schedules=[Schedule(tick, interval=0.01)])():
        await ran.wait()


async def test_what_outboxes_still_hold_is_relayed_by_a_process_without_workers_too() -> None:
    class Left:
        def __init__(self) -> None:
            self.rows: list[NewTask] = [submission(greet, "Ada")]
            self.swept = asyncio.Event()

        async def sweep(self, submit: Submit) -> int:
            rows, self.rows = self.rows, []
            if rows:
                await submit(rows)
            self.swept.set()
            return len(rows)

        async def delivered(self, destination: str) -> bool:
            return False

        async def drain(self) -> None:
            pass

    class Broken:
        async def sweep(self, submit: Submit) -> int:
            raise OSError("the database is away")

        async def delivered(self, destination: str) -> bool:
            return False

        async def drain(self) -> None:
            pass

    broken, left = Broken(), Left()
    announce_outbox(broken)
    announce_outbox(left)
    async with MemoryKV() as kv, task_lifespan(kv, workers=0, sweep_interval=0.01)() as state:
        await left.swept.wait()
        (task,) = await state["scheduler"].get_tasks()
        assert (task.name, task.input, task.status) == ("greet", "Ada", "pending")
        left.rows.append(submission(greet, "Bob"))
        left.swept.clear()
        await left.swept.wait()
        assert await state["scheduler"].get_queue_depth() == 2


async def test_a_task_that_runs_at_the_end_gets_its_grace_and_is_then_handed_back() -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    @define_task(name="long")
    async def long(ctx: TaskContext) -> str:
        started.set()
        await finish.wait()
        return "done"

    async with MemoryKV() as kv:
        async with task_lifespan(kv, tasks=[long])() as state:
            finished = await state["scheduler"].enqueue(long)
            await started.wait()
            finish.set()
        task = await state["scheduler"].get_task(finished)
        assert task.status == "completed"

        started.clear()
        finish.clear()
        async with task_lifespan(kv, tasks=[long], shutdown_grace=0)() as state:
            handed_back = await state["scheduler"].enqueue(long)
            await started.wait()
        task = await state["scheduler"].get_task(handed_back)
        assert (task.status, task.attempt, task.crashes, task.interruptions) == ("pending", 0, 0, 1)


async def test_an_unreachable_redis_ends_the_start_with_one_line_that_hides_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    with (
        caplog.at_level(logging.ERROR, "concave"),
        pytest.raises(StoreUnavailableError, match=r"redis://user:\*\*\*@127"),
    ):
        async with task_lifespan(url)():
            pass
    assert "secret" not in caplog.text
    assert len(caplog.records) == 1
    with pytest.raises(StoreUnavailableError) as raised:
        await create_kv(url)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "options,named",
    [
        ({"workers": -1}, "workers"),
        ({"workers": True}, "workers"),
        ({"shutdown_grace": -1}, "shutdown_grace"),
        ({"sweep_interval": 0}, "sweep_interval"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        task_lifespan(**options)


async def test_worker_options_are_checked_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="concurrency"):
        async with task_lifespan(concurrency=0)():
            pass


# TaskMiddleware


async def test_middleware_runs_tasks_around_an_app_with_a_lifespan() -> None:
    story: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncGenerator[dict[str, str]]:
        story.append(f"enter with {get_task_registry().get_all()}")
        yield {"own": "state"}
        get_task_scheduler()
        story.append("leave")

    async def endpoint(request: Request) -> PlainTextResponse:
        task = await request.state.scheduler.wait(await request.state.scheduler.enqueue(greet, "Ada"))
        return PlainTextResponse(f"{task.result} {request.state.own}")

    inner = Starlette(routes=[Route("/", endpoint)], lifespan=own)
    async with _served(TaskMiddleware(inner, tasks=[greet])) as client:
        assert (await client.get("/")).text == "hello Ada state"
    assert story == ["enter with [TaskDefinition('greet')]", "leave"]
    with pytest.raises(TasksNotInitializedError):
        get_task_scheduler()


async def _raises_at_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await PlainTextResponse(scope["state"]["scheduler"].__class__.__name__)(scope, receive, send)


async def _ignores_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await _raises_at_lifespan(scope, receive, send)


@pytest.mark.parametrize("app", [_raises_at_lifespan, _ignores_lifespan])
async def test_middleware_speaks_for_an_app_that_knows_no_lifespan(app: Any) -> None:
    async with _served(TaskMiddleware(app, tasks=[greet])) as client:
        assert (await client.get("/")).text == "TaskScheduler"
        assert get_task_registry().get("greet") is greet
    with pytest.raises(TasksNotInitializedError):
        get_task_scheduler()


async def test_middleware_ends_with_an_app_whose_start_fails() -> None:
    @asynccontextmanager
    async def fails(app: Any) -> AsyncGenerator[None]:
        if app is not None:
            raise RuntimeError("no database")
        yield

    with pytest.raises(RuntimeError, match="no database"):
        async with _served(TaskMiddleware(Starlette(lifespan=fails), tasks=[greet])):
            pass
    with pytest.raises(TasksNotInitializedError):
        get_task_scheduler()


@asynccontextmanager
async def _served(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an app whose lifespan runs, as a server would run it (httpx's transport runs none)."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    state: dict[str, Any] = {}

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    serving = asyncio.create_task(app(scope, to_app.get, from_app.put))
    try:
        await to_app.put({"type": "lifespan.startup"})
        message = await _next(from_app, serving)
        if message["type"] == "lifespan.startup.complete":
            transport = httpx.ASGITransport(app=with_state)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client
            await to_app.put({"type": "lifespan.shutdown"})
            assert (await _next(from_app, serving))["type"] == "lifespan.shutdown.complete"
    finally:
        await serving


async def _next(from_app: asyncio.Queue[Message], serving: asyncio.Task[None]) -> Message:
    message = asyncio.create_task(from_app.get())
    await asyncio.wait({message, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not message.done():
        message.cancel()
        await serving
    return await message
