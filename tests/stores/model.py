"""A store as naive as can be: one dict of tasks, looked through from end to end. Written from the promises of
`concave.store.protocol`, not from any store. Times are given by whoever drives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from concave.store.records import (
    DAY,
    MAX_FAILURES,
    SUPERSEDED,
    Cancel,
    Claim,
    Complete,
    Decision,
    Die,
    Extended,
    Failure,
    Lease,
    NewTask,
    Query,
    Release,
    Retry,
    TaskRecord,
    TaskStatus,
    bucket_of,
    crash_reason,
)

WAITING = {"pending", "scheduled", "failed"}
Key = tuple[str, str]


@dataclass(eq=False)
class Run:
    token: str
    worker: str
    started: int
    deadline: int
    progress: bytes | None = None
    abort: bool = False


@dataclass(eq=False)
class ModelTask:
    new: NewTask
    created: int
    due: int
    input: bytes
    key: str | None
    failed: bool = False
    """It waits for a retry."""
    claimed_once: bool = False
    failures: list[Failure] = field(default_factory=list[Failure])
    attempts_failed: int = 0
    crashes: int = 0
    interruptions: int = 0
    run: Run | None = None
    ended: TaskStatus | None = None
    ended_at: int = 0
    last_run: Run | None = None
    result: bytes | None = None
    reason: str | None = None
    revived_from: str | None = None

    @property
    def lane(self) -> tuple[int, str, bool]:
        return bucket_of(self.new.priority), self.new.name, self.crashes > 0

    @property
    def expires(self) -> int:
        kept = self.new.retention
        return (
            self.ended_at
            + {"completed": kept.completed, "cancelled": kept.cancelled, "dead": kept.dead}[
                self.ended or "dead"
            ]
        )

    def status(self, now: int) -> TaskStatus:
        if self.ended:
            return self.ended
        if self.run:
            return "running"
        if self.due <= now:
            return "pending"
        return "failed" if self.failed else "scheduled"

    def record(self, now: int) -> TaskRecord:
        status, run = self.status(now), self.run or self.last_run
        worker = run.worker if run else None
        if status in WAITING:
            worker = self.failures[-1].worker_id if self.failures else None
        return TaskRecord(
            id=self.new.id,
            name=self.new.name,
            input=self.input,
            status=status,
            priority=self.new.priority,
            created_at=self.created,
            due_at=self.due,
            attempt=self.attempts_failed + (status in {"running", "completed"}),
            crashes=self.crashes,
            interruptions=self.interruptions,
            max_attempts=self.new.max_attempts,
            max_crashes=self.new.max_crashes,
            idempotency_key=self.key,
            debounce_key=self.new.debounce.key if self.new.debounce else None,
            retention=self.new.retention,
            started_at=run.started if run and status not in WAITING else None,
            ended_at=self.ended_at if self.ended else None,
            worker_id=worker,
            result=self.result,
            reason=self.reason,
            failures=tuple(self.failures[-MAX_FAILURES:]),
            revived_from=self.revived_from,
            progress=self.run.progress if self.run else None,
        )


class Model:
    def __init__(self, now: int) -> None:
        self.now = now
        self.tasks: dict[str, ModelTask] = {}
        self.submissions: dict[str, tuple[str, int]] = {}
        self.keys: dict[Key, tuple[str, int | None]] = {}
        self.latest: dict[Key, tuple[int, str, int]] = {}
        """The highest number under a debounce key, the task that stands last there, until when it is known."""

    # Time

    def pass_time(self, now: int) -> None:
        self.now = now
        for task in [task for task in self.tasks.values() if task.ended and task.expires <= now]:
            self._forget(task)
        self.keys = {key: held for key, held in self.keys.items() if held[1] is None or held[1] > now}
        self.submissions = {each: known for each, known in self.submissions.items() if known[1] > now}
        self.latest = {key: known for key, known in self.latest.items() if known[2] > now}

    def moments(self) -> Iterator[int]:
        """When something happens by itself."""
        for task in self.tasks.values():
            yield task.expires if task.ended else task.run.deadline if task.run else task.due
        yield from (until for _, until in self.keys.values() if until is not None)

    def reap(self) -> int:
        lost = [task for task in self.tasks.values() if task.run and task.run.deadline <= self.now]
        for task in lost:
            run = self._leave(task)
            task.crashes += 1
            if run.abort:
                self._end(task, "cancelled", "cancelled while it ran, and its worker died")
            elif task.crashes >= task.new.max_crashes:
                self._end(task, "dead", crash_reason(task.crashes))
            else:
                self._wait(task, self.now)
        return len(lost)

    # Adding

    def add(self, new: NewTask, created: int) -> str:
        if new.id in self.tasks:
            return new.id
        if new.id in self.submissions:
            return self.submissions[new.id][0]
        key, number = _debounce_key(new), (new.debounce and new.debounce.sequence) or 0
        highest, last, until = self.latest.get(key, (0, "", 0))
        if 0 < number <= highest:
            self.submissions[new.id] = last, self.now + DAY
            return last
        standing = self._holder(new) or self._debounced(new)
        if new.debounce and (number or highest):
            until = max(until, max(self._due(new, created), self.now) + DAY)
            self.latest[key] = number or highest, standing or new.id, until
        if standing:
            self.submissions[new.id] = standing, self.now + DAY
            return standing
        if new.idempotency_key is not None:
            self.keys[new.name, new.idempotency_key] = new.id, None
        self.tasks[new.id] = ModelTask(new, created, self._due(new, created), new.input, new.idempotency_key)
        return new.id

    def _holder(self, new: NewTask) -> str | None:
        return self.keys.get((new.name, new.idempotency_key or ""), (None, None))[0]

    def _debounced(self, new: NewTask) -> str | None:
        if new.debounce is None:
            return None
        key = _debounce_key(new)
        waiting = [
            task
            for task in self.tasks.values()
            if _debounce_key(task.new) == key and not (task.run or task.ended)
        ]
        for task in waiting:
            if not task.claimed_once:
                task.input, task.due = new.input, self._due(new, task.created)
                if new.idempotency_key is not None:
                    self._fold_key(task, new, new.idempotency_key)
                return task.new.id
        if new.debounce.sequence or key in self.latest:
            for task in waiting:
                task.last_run = None
                self._end(task, "cancelled", SUPERSEDED)
        return None

    def _fold_key(self, task: ModelTask, new: NewTask, key: str) -> None:
        if task.key is None:
            task.key = key
            self.keys[new.name, key] = task.new.id, None
        elif new.retention.key:
            self.keys[new.name, key] = task.new.id, self.now + new.retention.key

    def _due(self, new: NewTask, created: int) -> int:
        asked = self.now + new.delay if new.at is None else new.at
        if new.debounce is None:
            return asked
        waits = [self.now + new.debounce.window]
        if new.debounce.max_wait is not None:
            waits.append(created + new.debounce.max_wait)
        return max(asked, min(waits))

    # Claiming

    def claim(self, claim: Claim, taken: Iterable[str]) -> list[Lease]:
        leases: list[Lease] = []
        for task_id in taken:
            task = self.tasks[task_id]
            task.run = Run(claim.nonce, claim.worker_id, self.now, self.now + claim.lease)
            task.claimed_once = True
            leases.append(Lease(task.record(self.now), claim.nonce, task.crashes > 0))
        return leases

    def idle_for(self) -> int | None:
        coming = [
            task.run.deadline if task.run else task.due
            for task in self.tasks.values()
            if task.run or (not task.ended and task.due > self.now)
        ]
        return min(coming) - self.now if coming else None

    def held(self, lease: Lease) -> ModelTask | None:
        task = self.tasks.get(lease.task.id)
        return task if task and task.run and task.run.token == lease.token else None

    def extend(self, lease: Lease, duration: int) -> Extended:
        task = self.held(lease)
        if task is None or task.run is None:
            return "lost"
        task.run.deadline = self.now + duration
        return "aborted" if task.run.abort else "held"

    def report(self, lease: Lease, progress: bytes) -> bool:
        task = self.held(lease)
        if task and task.run:
            task.run.progress = progress
        return task is not None

    def abort(self, id: str) -> bool:
        task = self.tasks.get(id)
        if task is None or task.run is None:
            return False
        task.run.abort = True
        return True

    # Ending

    def settle(self, lease: Lease, decision: Decision) -> bool:
        task = self.held(lease)
        if task is None:
            return False
        run = self._leave(task)
        match decision:
            case Complete(result):
                task.result = result
                self._end(task, "completed", None)
            case Retry(delay, failure):
                self._fail(task, run, failure)
                self._wait(task, self.now + delay, failed=failure is not None)
            case Release():
                task.interruptions += 1
                self._wait(task, self.now)
            case Die(reason, failure):
                self._fail(task, run, failure)
                self._end(task, "dead", reason)
            case Cancel(reason):
                self._end(task, "cancelled", reason)
        return True

    def cancel(self, id: str) -> bool:
        task = self.tasks.get(id)
        if task is None or task.run or task.ended:
            return False
        task.last_run = None
        self._end(task, "cancelled", None)
        return True

    def revive(self, id: str, new_id: str) -> str | None:
        old, new = self.tasks.get(id), self.tasks.get(new_id)
        if new is not None:
            return new_id if new.revived_from == id else None
        if old is None or old.ended != "dead":
            return None
        key = old.key if self.keys.get((old.new.name, old.key or ""), ("", None))[0] == id else None
        if key is not None:
            self.keys[old.new.name, key] = new_id, None
        self._forget(old)
        self.tasks[new_id] = ModelTask(
            old.new._replace(id=new_id, debounce=None), self.now, self.now, old.input, key, revived_from=id
        )
        return new_id

    def purge(self, older_than: int) -> int:
        gone = [task for task in self.dead() if task.ended_at < self.now - older_than]
        for task in gone:
            self._forget(task)
            self._free(task)
        return len(gone)

    def _leave(self, task: ModelTask) -> Run:
        assert task.run is not None
        run, task.run = task.run, None
        task.last_run = run
        return run

    def _fail(self, task: ModelTask, run: Run, failure: Failure | None) -> None:
        if failure is not None:
            task.attempts_failed += 1
            task.failures.append(
                failure._replace(attempt=task.attempts_failed, at=self.now, worker_id=run.worker)
            )

    def _wait(self, task: ModelTask, due: int, *, failed: bool = False) -> None:
        _, last, _ = self.latest.get(_debounce_key(task.new), (0, task.new.id, 0))
        if last == task.new.id:
            task.due, task.failed = due, failed
        else:
            self._end(task, "cancelled", SUPERSEDED)

    def _end(self, task: ModelTask, status: TaskStatus, reason: str | None) -> None:
        task.ended, task.ended_at, task.reason = status, self.now, reason
        key = (task.new.name, task.key or "")
        if self.keys.get(key, ("", None))[0] != task.new.id or task.key is None:
            return
        if status == "cancelled":
            del self.keys[key]
        else:
            kept = task.new.retention
            self.keys[key] = task.new.id, self.now + (kept.key if status == "completed" else kept.dead)

    def _free(self, task: ModelTask) -> None:
        key = (task.new.name, task.key or "")
        if self.keys.get(key, ("", None))[0] == task.new.id:
            del self.keys[key]

    def _forget(self, task: ModelTask) -> None:
        del self.tasks[task.new.id]
        if task.created + DAY > self.now:
            self.submissions[task.new.id] = task.new.id, task.created + DAY

    # Looking

    def get(self, id: str) -> TaskRecord | None:
        task = self.tasks.get(id)
        return task.record(self.now) if task else None

    def depth(self) -> int:
        return sum(not task.run and not task.ended for task in self.tasks.values())

    def dead(self) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.ended == "dead"]

    def find(self, query: Query) -> list[TaskRecord]:
        newest_first = sorted(self.tasks.values(), key=lambda task: task.created, reverse=True)
        found = [
            task.record(self.now)
            for task in newest_first
            if (not query.statuses or task.status(self.now) in query.statuses)
            and (not query.names or task.new.name in query.names)
            and (query.created_after is None or task.created > query.created_after)
            and (query.created_before is None or task.created < query.created_before)
        ]
        return found[query.offset : query.offset + query.limit]


def _debounce_key(new: NewTask) -> Key:
    return new.name, new.debounce.key if new.debounce else ""
