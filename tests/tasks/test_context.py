"""What a handler is told about its run."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from concave.store.records import Retention, TaskRecord
from concave.tasks import AbortSignal, TaskContext

NOON = 1_767_268_800_000_000


def record(**changes: Any) -> TaskRecord:
    plain = TaskRecord(
        "id",
        "name",
        b"1",
        "running",
        50,
        NOON,
        NOON,
        2,
        0,
        0,
        3,
        3,
        None,
        None,
        Retention(),
        started_at=NOON + 1,
    )
    return plain._replace(**changes)


async def test_it_tells_which_run_it_is() -> None:
    ctx = TaskContext(record(), worker_id="w", state={"db": 1})
    assert (ctx.task_id, ctx.name, ctx.attempt, ctx.worker_id, ctx.state) == ("id", "name", 2, "w", {"db": 1})
    assert ctx.scheduled_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert ctx.started_at == datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
    assert not ctx.signal.aborted
    assert TaskContext(record(started_at=None)).started_at == ctx.scheduled_at


async def test_progress_goes_to_whoever_listens() -> None:
    told: list[bytes] = []

    async def listen(progress: bytes) -> None:
        told.append(progress)

    ctx = TaskContext(record(), report=listen)
    await ctx.progress(1)
    await ctx.progress(2.5, 10, "half way")
    assert told == [b"[1,null,null]", b'[2.5,10,"half way"]']
    await TaskContext(record()).progress(1)  # in a unit test nobody does
    for done, total in ((float("nan"), None), (1, float("inf"))):
        with pytest.raises(ValueError, match="finite numbers"):
            await ctx.progress(done, total)


def test_all_who_ask_for_the_signal_at_once_get_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = TaskContext(record())
    seen: list[AbortSignal] = []
    handler = threading.Thread(target=lambda: seen.append(ctx.signal))

    def made_while_the_handler_asks() -> AbortSignal:
        if handler.ident is None:
            handler.start()
            handler.join(0.5)  # it can't get one before this one is there
        return AbortSignal()

    monkeypatch.setattr("concave.tasks.context.AbortSignal", made_while_the_handler_asks)
    ctx.signal.abort("now")
    handler.join()
    assert [signal.reason for signal in seen] == ["now"]
