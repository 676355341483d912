"""Fail-points: what `concave.testing` offers to make things go wrong at a chosen step."""

import asyncio
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave import (
    ConfigurationError,
    Schedule,
    StoreUnavailableError,
    TaskContext,
    TaskScheduler,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    failpoints,
    task_lifespan,
)
from concave.kv import MemoryKV
from concave.testing import FAIL_POINTS, FailPoint, fail_at
from concave_sqlalchemy import create_outbox_tables, use_resource
from tests.tasks.support import ended, until, working

tables = MetaData()
notes = Table("notes", tables, Column("id", Integer, primary_key=True), Column("title", String(20)))


@define_task(name="note")
async def note(ctx: TaskContext, entry: Any) -> None: ...


@define_task(name="tick")
async def tick(ctx: TaskContext) -> None: ...


async def test_every_fail_point_is_passed_by_the_code(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/notes.db")
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    await create_outbox_tables(engine)
    resource = use_resource(
        notes,
        session=async_sessionmaker(engine),
        hooks=create_task_trigger_hooks(on_create=[TaskTrigger(note)]),
    )
    app = Starlette(routes=[resource.mount("/notes")])
    with ExitStack() as stack:
        events: dict[FailPoint, asyncio.Event] = {point: asyncio.Event() for point in FAIL_POINTS}

        def lose_the_answer() -> None:
            """So that the row is left to a sweep."""
            events["outbox.sent"].set()
            raise StoreUnavailableError("no answer")

        for point, event in events.items():
            stack.enter_context(fail_at(point, lose_the_answer if point == "outbox.sent" else event.set))
        lifespan = task_lifespan(tasks=[note], schedules=[Schedule(tick, interval=0.01)], sweep_interval=0.01)
        transport = httpx.ASGITransport(app=app)
        async with (
            lifespan(),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            assert (await client.post("/notes", json={"title": "left behind"})).status_code == 201
            for event in events.values():
                await event.wait()
    await engine.dispose()


async def test_an_error_is_raised_there_for_as_long_as_the_block_lasts() -> None:
    with fail_at("worker.claimed", OSError("there")) as point:
        with pytest.raises(OSError, match="there"):
            await failpoints.reach("worker.claimed")
        await failpoints.reach("worker.ran")
    await failpoints.reach("worker.claimed")
    assert (point.reached, failpoints.armed) == (1, {})


async def test_a_type_of_error_is_raised_too() -> None:
    with fail_at("worker.ran", KeyError), pytest.raises(KeyError):
        await failpoints.reach("worker.ran")


async def test_a_function_is_called_and_what_it_returns_awaited() -> None:
    story: list[str] = []

    async def hold_up() -> None:
        story.append("began")
        await asyncio.sleep(0)
        story.append("ended")

    with fail_at("worker.ran", hold_up):
        await failpoints.reach("worker.ran")
    assert story == ["began", "ended"]


async def test_the_first_passages_may_be_let_through_and_the_last_ones_too() -> None:
    acted: list[int] = []
    with fail_at("worker.ran", lambda: acted.append(point.reached), after=2, times=2) as point:
        for _ in range(6):
            await failpoints.reach("worker.ran")
    assert (acted, point.reached) == ([3, 4], 6)


async def test_a_lost_answer_of_the_store_loses_and_doubles_nothing() -> None:
    async with MemoryKV() as kv, working(kv, note):
        with fail_at("worker.settled", StoreUnavailableError("no answer"), times=1) as settled:
            task = await ended(kv, await TaskScheduler(kv).enqueue(note, {}))
            assert (task.status, task.attempt) == ("completed", 1)
            await until(lambda: settled.reached >= 1)


def test_a_fail_point_that_there_is_not_is_refused() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"'worker.rann'; there are .*worker.ran"),
        fail_at(cast("FailPoint", "worker.rann"), OSError),
    ):
        pass


def test_arming_one_twice_is_refused_and_leaves_the_first() -> None:
    with fail_at("worker.ran", OSError) as first:
        with pytest.raises(ConfigurationError, match="armed already"), fail_at("worker.ran", OSError):
            pass
        assert "worker.ran" in failpoints.armed
    assert first.reached == 0


PROGRAM = """
import asyncio, sys
from concave import failpoints
{arm}
asyncio.run(failpoints.reach("worker.claimed")) if failpoints.armed else None
print("lives")
"""


@pytest.mark.parametrize(
    "arm, value, ends_with",
    [
        ("", "worker.claimed", (0, "lives")),
        ("import concave.testing", "worker.claimed", (0, "lives")),
        ("concave_testing()", "worker.claimed", (-9, "")),
        ("concave_testing()", "worker.ran, worker.claimed,", (-9, "")),
        ("concave_testing()", "worker.ran", (0, "lives")),
        ("concave_testing()", "", (0, "lives")),
        ("concave_testing()", None, (0, "lives")),
        ("concave_testing()", "__import__('os')", (1, "")),
    ],
)
def test_the_environment_arms_nothing_unless_a_test_module_asks_for_it(
    arm: str, value: str | None, ends_with: tuple[int, str]
) -> None:
    arm = arm.replace("concave_testing()", "from concave.testing import *; arm_from_environment()")
    env = {name: each for name, each in os.environ.items() if name != "CONCAVE_FAIL_AT"}
    if value is not None:
        env["CONCAVE_FAIL_AT"] = value
    command = [sys.executable, "-c", PROGRAM.format(arm=arm)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == ends_with
