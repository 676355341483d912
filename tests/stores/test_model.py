"""Each store beside a naive model of one (`tests/stores/model.py`): whatever is done to both, they answer alike.

By default a thousand steps for each store, the same ones at every run. The long form takes other steps every time, and
makes what fails as short as it can: ``make model``, or for another number of steps

    CONCAVE_MODEL_STEPS=100000 .venv/bin/pytest -s tests/stores/test_model.py
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from concave.kv import KV, MemoryKV, RedisKV
from concave.store.records import (
    Claim,
    Lease,
    NewTask,
    Query,
    Settlement,
    TaskStatus,
)
from concave.testing import FakeClock
from tests.stores.claim_rules import problems_of
from tests.stores.leaks import check_for_leaks, drop_namespace
from tests.stores.model import Model
from tests.stores.strategies import CLAIMS, DECISIONS, HOUR, MINUTE, NAMES, SECOND, new_task

SHORT = 1000
STEPS = 60
"""Per example."""
CHECK_EVERY = 12
"""Steps between two looks at what Redis holds."""

T = TypeVar("T")


def _without_progress(lease: Lease) -> Lease:
    return lease._replace(task=lease.task._replace(progress=None))


class StoreMachine(RuleBasedStateMachine):
    redis_url: ClassVar[str | None] = None
    """The store is that one, or one in memory."""
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.prefix = f"model-{uuid.uuid4().hex}"
        self.kv: KV = MemoryKV(clock=self.clock)
        if self.redis_url:
            self.kv = RedisKV(self.redis_url, prefix=self.prefix, clock=self.clock)
        self.do(self.kv.connect())
        self.store = self.kv.store
        self.model = Model(self.clock.now())
        self.submitted: list[NewTask] = []
        self.ids: list[str] = ["unknown"]
        self.forgotten: set[str] = set()
        self.leases: list[Lease] = []
        self.claims: dict[tuple[str, int], tuple[Claim, list[Lease]]] = {}
        self.numbers = self.steps_here = 0

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def teardown(self) -> None:
        try:
            if self.redis_url:
                self.do(check_for_leaks(self.redis_url, self.prefix))
                self.do(drop_namespace(self.redis_url, self.prefix))
        finally:
            self.do(self.kv.close())
            self.runner.close()

    # Adding

    @rule(data=st.data(), count=st.integers(1, 4))
    def add(self, data: st.DataObject, count: int) -> None:
        tasks = [new_task(data, self.number(), self.clock.now()) for _ in range(count)]
        self.submitted += tasks
        self._add(tasks)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        # An id that was forgotten early, and is in use again a day later, isn't promised anything.
        known = [task for task in self.submitted if task.id not in self.forgotten]
        if known:
            self._add(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)))

    def _add(self, tasks: list[NewTask]) -> None:
        expected = [self.model.add(task, self.clock.now() + number) for number, task in enumerate(tasks)]
        assert self.do(self.store.add(tasks)) == expected
        self.ids += [task.id for task in tasks if task.id not in self.ids]
        self._pass(len(tasks))  # so that creation orders them all

    # Claiming

    @rule(claim=CLAIMS)
    def claim(self, claim: Claim) -> None:
        self._claimed(claim, lambda asked: self.do(self.store.claim(asked)))

    @rule(claim=CLAIMS, data=st.data())
    def claim_when_something_has_happened(self, claim: Claim, data: st.DataObject) -> None:
        self._pass(self._until_something_happens(data), reap=False)
        self._claimed(claim, lambda asked: self.do(self.store.claim(asked)))

    def _claimed(self, claim: Claim, send: Callable[[Claim], Any]) -> None:
        number = self.number()
        claim = claim._replace(nonce=f"{number:016d}", number=number)
        claimed = send(claim)
        self.model.reap()
        taken = [lease.task.id for lease in claimed.leases]
        assert problems_of(self.model, claim, taken) == []
        assert claimed.leases == self.model.claim(claim, taken)
        idle_for = None if len(taken) == claim.limit else self.model.idle_for()
        if idle_for is None:
            assert claimed.idle_for is None
        else:
            # Too early is allowed: there may have been something that was due then.
            assert claimed.idle_for is not None
            assert 0 <= claimed.idle_for <= idle_for
        self.leases += claimed.leases
        # Whoever has claimed on a line since doesn't send an earlier claim of it again.
        self.claims.pop((claim.worker_id, claim.line), None)
        if taken:
            self.claims[claim.worker_id, claim.line] = claim, claimed.leases

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def claim_again(self, data: st.DataObject) -> None:
        claim, leases = self.claims[data.draw(st.sampled_from(sorted(self.claims)))]
        if leases[0].task.started_at is None or self.clock.now() >= leases[0].task.started_at + claim.lease:
            return  # no worker sends a claim again that long
        self.model.reap()
        got = self.do(self.store.claim(claim)).leases
        held = [(lease, task) for lease in leases if (task := self.model.held(lease)) is not None]
        assert [_without_progress(lease) for lease in got] == [
            _without_progress(lease._replace(task=task.record(self.clock.now()))) for lease, task in held
        ]

    # Settling

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        settlements = self._settlements(data)
        expected = [self.model.settle(*settlement) for settlement in settlements]
        assert self.do(self.store.settle(settlements)).accepted == expected

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), claim=CLAIMS)
    def settle_and_claim(self, data: st.DataObject, claim: Claim) -> None:
        settlements = self._settlements(data)
        expected = [self.model.settle(*settlement) for settlement in settlements]

        def send(asked: Claim) -> Any:
            settled = self.do(self.store.settle(settlements, asked))
            assert settled.accepted == expected
            return settled.claimed

        self._claimed(claim, send)

    def _settlements(self, data: st.DataObject) -> list[Settlement]:
        return data.draw(st.lists(st.builds(Settlement, self._lease(), DECISIONS), min_size=1, max_size=4))

    def _lease(self) -> st.SearchStrategy[Lease]:
        """A recent one more often than one that is long stale."""
        return st.sampled_from(self.leases[-6:]) | st.sampled_from(self.leases)

    # Leases

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), duration=st.sampled_from([SECOND, MINUTE, 5 * MINUTE]))
    def extend(self, data: st.DataObject, duration: int) -> None:
        leases = data.draw(st.lists(self._lease(), min_size=1, max_size=4))
        expected = [self.model.extend(lease, duration) for lease in leases]
        assert self.do(self.store.extend(leases, duration)) == expected

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        lease, progress = data.draw(self._lease()), b"[%d]" % self.number()
        assert self.do(self.store.report(lease, progress)) == self.model.report(lease, progress)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(self.ids))
        assert self.do(self.store.abort(task_id)) == self.model.abort(task_id)

    # Time

    @rule(span=st.sampled_from([1, SECOND, MINUTE, HOUR, 24 * HOUR]))
    def time_passes(self, span: int) -> None:
        self._pass(span)

    @rule(data=st.data())
    def time_passes_until_something_happens(self, data: st.DataObject) -> None:
        self._pass(self._until_something_happens(data))

    def _until_something_happens(self, data: st.DataObject) -> int:
        """Up to the moment itself, or just before it."""
        now = self.clock.now()
        coming = sorted({moment - now for moment in self.model.moments() if moment > now})[:5]
        return max(0, data.draw(st.sampled_from(coming or [1])) - data.draw(st.sampled_from([0, 1])))

    def _pass(self, span: int, *, reap: bool = True) -> None:
        self.clock.advance_micros(span)
        self.model.pass_time(self.clock.now())
        if reap:
            # Until someone reaps, what a dead worker held may be told to run, or not to.
            assert self.do(self.store.reap()) == self.model.reap()

    # Ending otherwise

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(self.ids))
        assert self.do(self.store.cancel(task_id)) == self.model.cancel(task_id)

    @rule(data=st.data(), times=st.integers(1, 2))
    def revive(self, data: st.DataObject, times: int) -> None:
        dead = [task.new.id for task in self.model.dead()]
        task_id = data.draw(st.sampled_from(dead) if dead else st.sampled_from(self.ids))
        new_id = f"revived{self.number():06d}"
        for _ in range(times):
            expected = self.model.revive(task_id, new_id)
            assert self.do(self.store.revive(task_id, new_id)) == expected
        self.forgotten.add(task_id)
        self.ids.append(new_id)
        self._pass(1)

    @rule(older_than=st.sampled_from([0, MINUTE, HOUR]))
    def purge(self, older_than: int) -> None:
        before = set(self.model.tasks)
        assert self.do(self.store.purge(older_than)) == self.model.purge(older_than)
        self.forgotten |= before - set(self.model.tasks)

    @rule()
    def tidy(self) -> None:
        self.do(self.store.tidy())

    # Looking

    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        moments = [task.created for task in self.model.tasks.values()]
        bound = st.none() | (st.sampled_from(moments) if moments else st.none())
        statuses: st.SearchStrategy[TaskStatus] = st.sampled_from(get_args(TaskStatus))
        query = Query(
            statuses=tuple(data.draw(st.lists(statuses, max_size=3))),
            names=tuple(data.draw(st.lists(NAMES, max_size=2))),
            created_after=data.draw(bound),
            created_before=data.draw(bound),
            limit=data.draw(st.integers(1, 30)),
            offset=data.draw(st.integers(0, 10)),
        )
        assert self.do(self.store.find(query)) == self.model.find(query)

    @invariant()
    def everything_is_alike(self) -> None:
        StoreMachine.steps += 1
        self.steps_here += 1
        self.do(self._compare())

    async def _compare(self) -> None:
        store, model = self.store, self.model
        records = await asyncio.gather(*(store.get(task_id) for task_id in self.ids))
        assert records == [model.get(task_id) for task_id in self.ids]
        assert await store.find(Query(limit=1000)) == model.find(Query(limit=1000))
        assert await store.depth() == model.depth()
        latest_first = sorted(model.dead(), key=lambda task: -task.ended_at)
        dead = await store.dead(100, 0)
        assert [record.ended_at for record in dead] == [task.ended_at for task in latest_first]
        assert {record.id: record for record in dead} == {
            task.new.id: task.record(model.now) for task in latest_first
        }
        assert await store.dead_count() == len(latest_first)
        if self.redis_url and self.steps_here % CHECK_EVERY == 0:
            await check_for_leaks(self.redis_url, self.prefix)


def run_beside_the_model(redis_url: str | None) -> None:
    wanted = int(os.environ.get("CONCAVE_MODEL_STEPS", "0"))

    class Machine(StoreMachine):
        pass

    Machine.redis_url = redis_url
    StoreMachine.steps = 0
    long = bool(wanted)
    while not StoreMachine.steps or StoreMachine.steps < wanted:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=max(1, ((wanted or SHORT) - StoreMachine.steps) // STEPS),
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=not long,
                database=None,
                # Shrinking takes minutes: the short form shows the example as it was found.
                phases=[Phase.generate, Phase.shrink] if long else [Phase.generate],
                suppress_health_check=[
                    HealthCheck.too_slow,
                    HealthCheck.data_too_large,
                    HealthCheck.filter_too_much,
                ],
            ),
        )
    print(f"\n{StoreMachine.steps} steps beside the model")


@pytest.mark.timeout(3600 if "CONCAVE_MODEL_STEPS" in os.environ else 120)
def test_memory_beside_the_model() -> None:
    run_beside_the_model(None)


@pytest.mark.timeout(3600 if "CONCAVE_MODEL_STEPS" in os.environ else 120)
def test_redis_beside_the_model(redis_url: str) -> None:
    run_beside_the_model(redis_url)
