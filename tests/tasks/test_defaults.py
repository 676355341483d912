"""The process-wide default, the registry, and the outboxes that processes relay without being told."""

import asyncio
import gc
import logging
import threading
from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest

from concave import (
    TaskContext,
    TaskRegistry,
    TaskScheduler,
    TasksNotInitializedError,
    define_task,
    get_task_registry,
    get_task_scheduler,
    initialize_tasks,
    task_lifespan,
)
from concave.kv import MemoryKV
from concave.store.records import NewTask
from concave.tasks.defaults import (
    Defaults,
    announce_outbox,
    announced_outboxes,
    end_suspect_turn,
    leave_suspect_turn,
    restore_defaults,
    take_suspect_turn,
    use_defaults,
)
from concave.tasks.outbox import Submit
from concave.tasks.sweeper import Sweeper
from tests.tasks.support import WatchedClock, logged


@define_task(name="noop")
async def noop(ctx: TaskContext) -> None: ...


def made() -> Defaults:
    return Defaults(TaskScheduler(MemoryKV()), TaskRegistry())


@pytest.mark.parametrize("get", [get_task_scheduler, get_task_registry])
def test_without_a_default_the_error_names_the_fix(get: Any) -> None:
    with pytest.raises(TasksNotInitializedError, match=r"initialize_tasks\(kv\), .* task_lifespan\(\.\.\.\)"):
        get()


def test_initializing_again_replaces() -> None:
    first = initialize_tasks(MemoryKV())
    assert get_task_scheduler() is first
    get_task_registry().register(noop)
    second = initialize_tasks(MemoryKV())
    assert get_task_scheduler() is second is not first
    assert get_task_registry().get_all() == []


def test_the_latest_in_use_is_the_default_whoever_leaves_first() -> None:
    outer, inner = made(), made()
    base = initialize_tasks(MemoryKV())
    use_defaults(outer)
    use_defaults(inner)
    assert get_task_scheduler() is inner.scheduler
    restore_defaults(outer)
    assert get_task_registry() is inner.registry
    restore_defaults(inner)
    restore_defaults(inner)
    assert get_task_scheduler() is base


async def test_a_running_lifespan_is_the_default_and_gives_it_back() -> None:
    async with MemoryKV() as kv:
        base = initialize_tasks(kv)
        async with task_lifespan(workers=0)() as state:
            assert get_task_scheduler() is state["scheduler"]
        assert get_task_scheduler() is base


def test_a_second_task_of_a_name_replaces_the_first() -> None:
    registry = TaskRegistry([noop])
    names = registry.by_name
    other: Any = define_task("noop", noop.handler, priority=1)
    another: Any = define_task("another", noop.handler)
    registry.register(another)
    registry.register(other)
    assert registry.get("noop") is other
    assert registry.get("unknown") is None
    assert [task.name for task in registry.get_all()] == ["noop", "another"]
    assert names == {"noop": noop}  # a snapshot stays as it was


# Outboxes ---------------------------------------------------------------------------------------------------------


class Outbox:
    """An outbox in a list, whose database is away for as long as there are errors."""

    def __init__(self, rows: Sequence[NewTask] = (), *, errors: int = 0) -> None:
        self.rows = list(rows)
        self.errors = errors
        self.swept = asyncio.Event()
        self.drained = False

    async def sweep(self, submit: Submit) -> int:
        if self.errors:
            self.errors -= 1
            raise OSError("the database is away")
        rows, self.rows = self.rows, []
        await submit(rows)
        self.swept.set()
        return len(rows)

    async def delivered(self, destination: str) -> bool:
        return False

    async def drain(self) -> None:
        self.drained = True


async def test_an_announced_outbox_is_known_as_long_as_somebody_holds_it() -> None:
    outbox = Outbox()
    announce_outbox(outbox)
    announce_outbox(outbox)
    assert announced_outboxes().count(outbox) == 1
    del outbox
    gc.collect()
    assert not [each for each in announced_outboxes() if isinstance(each, Outbox)]


async def test_sweeping_goes_on_after_errors_and_one_outbox_is_in_no_others_way(clock: WatchedClock) -> None:
    new = NewTask("swept", "noop", b"null")
    broken, fine = Outbox([new._replace(id="late")], errors=2), Outbox([new])
    async with MemoryKV(clock=clock) as kv:
        scheduler = TaskScheduler(kv)
        with logged("could not sweep") as told, logged("relayed 1 tasks") as relayed:
            logging.getLogger("concave.outbox").setLevel(logging.INFO)
            sweeper = Sweeper(lambda: [broken, fine], scheduler.submit, interval=5, clock=clock)
            await fine.swept.wait()
            await told.wait()
            await relayed.wait()
        for times in (1, 2):
            assert not broken.swept.is_set()
            await clock.timer_set(5, times)
            clock.advance(5)
        await broken.swept.wait()
        assert await scheduler.get_queue_depth() == 2
        await sweeper.stop()
        await sweeper.stop()
        assert broken.drained
        assert fine.drained


async def test_a_sweep_that_is_under_way_is_finished(clock: WatchedClock) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Outbox):
        async def sweep(self, submit: Submit) -> int:
            begun.set()
            await go_on.wait()
            return await super().sweep(submit)

    outbox = Slow([NewTask("swept", "noop", b"null")])
    async with MemoryKV(clock=clock) as kv:
        sweeper = Sweeper(lambda: [outbox], TaskScheduler(kv).submit, interval=5, clock=clock)
        await begun.wait()
        stopping = asyncio.create_task(sweeper.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        go_on.set()
        await stopping
        assert await TaskScheduler(kv).get_queue_depth() == 1


def test_the_turn_at_what_has_crashed_before_is_one_workers_at_a_time_and_not_kept_by_a_dead_one() -> None:
    class Worker: ...

    first, second, told = Worker(), Worker(), list[str]()

    def take(worker: object) -> bool:
        return take_suspect_turn(worker, lambda: told.append("told"))

    assert take(first)
    assert take(first)
    end_suspect_turn(second, used=True)  # it isn't its to end
    assert not take(second)
    end_suspect_turn(first, used=False)
    assert told == []  # nobody has run anything that kept it waiting
    assert take(second)
    assert not take(first)
    end_suspect_turn(second, used=True)
    assert told == ["told"]
    assert take(second)
    del second
    gc.collect()
    assert take(first)
    end_suspect_turn(first, used=False)


def test_a_worker_that_stops_no_longer_waits_for_its_turn() -> None:
    class Worker:
        def wake(self) -> None:
            raise AssertionError("it has stopped")

    first, second = Worker(), Worker()
    assert take_suspect_turn(first, first.wake)
    assert not take_suspect_turn(second, second.wake)
    leave_suspect_turn(second, used=True)
    gone = ref(second)
    del second
    gc.collect()
    assert gone() is None
    leave_suspect_turn(first, used=True)


def test_a_turn_that_ends_while_another_thread_finds_it_taken_is_told_all_the_same() -> None:
    asking, go_on, told = threading.Event(), threading.Event(), list[str]()

    class Slow:
        def __hash__(self) -> int:  # between being refused and being entered among those who wait
            asking.set()
            assert go_on.wait(60)
            return id(self)

    first, second = type("Worker", (), {})(), Slow()
    assert take_suspect_turn(first, lambda: None)
    asks = threading.Thread(target=take_suspect_turn, args=(second, lambda: told.append("told")))
    ends = threading.Thread(target=end_suspect_turn, args=(first,), kwargs={"used": True})
    asks.start()
    assert asking.wait(60)
    ends.start()
    ends.join(0.1)  # as long as it takes where nothing holds it up; it is held up
    assert ends.is_alive()
    go_on.set()
    asks.join()
    ends.join()
    assert told == ["told"]
