"""What the tasks' tests wait by: a KV that reports and fails on demand, a log line as an event, time that runs by itself."""

import asyncio
import inspect
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from concave import Task, TaskDefinition, TaskRegistry, TaskScheduler, create_task_worker
from concave.clock import Clock, Timer
from concave.kv import KV
from concave.store.records import Claim, Lease
from concave.tasks import TaskWorker
from concave.testing import FakeClock

LEASE = 30_000_000


@dataclass
class _Fault:
    verb: str
    error: BaseException
    times: float
    carried_out: bool


@dataclass
class Script:
    """What a `ScriptedKV` and its twins did, and what they are to do wrong."""

    calls: Counter[str] = field(default_factory=Counter[str])
    arguments: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    _faults: list[_Fault] = field(default_factory=list[_Fault])
    _gates: dict[str, tuple[asyncio.Event, asyncio.Event]] = field(
        default_factory=dict[str, tuple[asyncio.Event, asyncio.Event]]
    )
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(
        default_factory=list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
    )

    def fail(
        self, verb: str, error: BaseException, *, times: float = 1, carried_out: bool = False
    ) -> Callable[[], None]:
        """Have a verb fail; with `carried_out` it is done and only its answer is lost. Returns what ends it."""
        fault = _Fault(verb, error, times, carried_out)
        self._faults.append(fault)
        return lambda: setattr(fault, "times", 0)

    def hold_answer(self, verb: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Hold back the next answer of a verb: (set once it is there, to be set to let it through)."""
        self._gates[verb] = (asyncio.Event(), asyncio.Event())
        return self._gates[verb]

    async def called(self, verb: str, times: int) -> None:
        """Wait until a verb has been called so many times in all, whether it failed or not."""
        event = asyncio.Event()
        self._waiters.append((asyncio.get_running_loop(), event))
        while self.calls[verb] < times:
            await event.wait()
            event.clear()

    def called_in_thread(self, verb: str, times: int) -> None:
        """`called`, for a thread that is to be blocked."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.calls[verb] >= times, timeout=60)

    async def run(self, verb: str, call: Callable[[], Any], argument: Any) -> Any:
        try:
            fault = next((each for each in self._faults if each.verb == verb and each.times > 0), None)
            if fault is None:
                answer = await call()
            else:
                fault.times -= 1
                if fault.carried_out:
                    await call()
                raise fault.error
            if verb in self._gates:
                there, let_through = self._gates.pop(verb)
                there.set()
                await let_through.wait()
            return answer
        finally:
            self._note(verb, argument)

    def _note(self, verb: str, argument: Any) -> None:
        with self._changed:
            self.calls[verb] += 1
            self.arguments.append((verb, argument))
            self._changed.notify_all()
        for loop, event in self._waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


class _Scripted:
    """Any of a store's parts, with each verb going by the script."""

    def __init__(self, part: Any, script: Script, prefix: str = "") -> None:
        self._part = part
        self._script = script
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name in {"schedules", "locks"}:
            return _Scripted(found, self._script, f"{name}.")
        if not inspect.iscoroutinefunction(found):
            return found

        async def verb(*args: Any) -> Any:
            return await self._script.run(
                self._prefix + name, lambda: found(*args), args[0] if args else None
            )

        return verb


class ScriptedKV:
    """A KV around another one: what is asked of its store is counted, and fails by the script."""

    def __init__(self, kv: KV, script: Script | None = None) -> None:
        self._kv = kv
        self.script = script or Script()

    @property
    def store(self) -> Any:
        return _Scripted(self._kv.store, self.script)

    @property
    def clock(self) -> Clock:
        return self._kv.clock

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._kv.loop

    @property
    def prefix(self) -> str:
        return self._kv.prefix

    @property
    def description(self) -> str:
        return self._kv.description

    async def connect(self) -> None:
        await self.script.run("connect", self._kv.connect, None)

    async def close(self) -> None:
        await self._kv.close()

    def twin(self) -> "ScriptedKV":
        return ScriptedKV(self._kv.twin(), self.script)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class WatchedClock(FakeClock):
    """A clock that tells when someone has set a timer: only then does letting time pass mean anything to them."""

    def __init__(self) -> None:
        super().__init__()
        self._set: Counter[float] = Counter()
        self._changed = threading.Condition()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = super().call_later(delay, callback)
        with self._changed:
            self._set[delay] += 1
            self._changed.notify_all()
        return timer

    def wait_for_timer(self, delay: float, times: int) -> None:
        """Block this thread until so many timers of that delay have been set in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._set[delay] >= times, timeout=60)

    async def timer_set(self, delay: float, times: int = 1) -> None:
        """`wait_for_timer`, without blocking the loop."""
        await asyncio.to_thread(self.wait_for_timer, delay, times)


@contextmanager
def logged(text: str, logger: str = "concave") -> Generator[asyncio.Event]:
    """An event that is set once a line with that text is logged, in whatever thread."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                loop.call_soon_threadsafe(event.set)

    listener = Listener()
    logging.getLogger(logger).addHandler(listener)
    try:
        yield event
    finally:
        logging.getLogger(logger).removeHandler(listener)


@asynccontextmanager
async def time_passing(
    clock: Clock, *, at_most: float = float("inf"), pause: float = 0.002
) -> AsyncGenerator[None]:
    """Let a clock run by itself, faster than time does: for what waits a while and is not about the while.

    With a `pause` between its steps where there are leases, since a real store needs real time to answer, and none is to
    run out meanwhile.
    """

    async def tick() -> None:
        passed = 0.0
        while isinstance(clock, FakeClock) and passed < at_most:
            clock.advance(0.1)
            passed += 0.1
            await asyncio.sleep(pause)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


@asynccontextmanager
async def working(kv: KV, *tasks: TaskDefinition[Any, Any], **options: Any) -> AsyncGenerator[TaskWorker]:
    """A worker that knows these tasks and, as long as nobody wakes it, sleeps."""
    given: dict[str, Any] = {"poll_interval": 30, "sweeps": False, **options}
    worker = create_task_worker(kv, TaskRegistry(tasks), **given)
    await worker.start()
    try:
        yield worker
    finally:
        async with time_passing(kv.clock, at_most=5):
            await worker.stop(grace=0)


async def ended(kv: KV, task_id: str) -> Task:
    """The task, once it has ended."""
    task = await TaskScheduler(kv).wait(task_id)
    assert task is not None
    return task


async def found(kv: KV, task_id: str) -> Task:
    task = await TaskScheduler(kv).get_task(task_id)
    assert task is not None
    return task


async def claim(
    kv: KV, *names: str, nonce: str = "n" * 16, limit: int = 1, lease: int = LEASE
) -> list[Lease]:
    """Claim as another worker would, whose heart then doesn't beat."""
    wanted = Claim("elsewhere", tuple((name, 0) for name in names), limit, lease, nonce)
    return (await kv.store.claim(wanted)).leases


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds that nobody announces."""
    while not condition():  # noqa: ASYNC110  the loop's turns are what is waited for
        await asyncio.sleep(0)
