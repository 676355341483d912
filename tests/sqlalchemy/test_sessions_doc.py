"""What `docs/sessions.md` shows, runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from concave import initialize_tasks
from concave.kv import MemoryKV
from concave_sqlalchemy.outbox import Outbox

DOC = Path(__file__).parents[2] / "docs" / "sessions.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)


async def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown: dict[str, Any] = {"__name__": "shown"}
    for block in blocks():
        exec(compile(block, "docs/sessions.md", "exec"), shown)
    async with MemoryKV() as kv:
        scheduler = initialize_tasks(kv)
        await shown["create_tables"]()
        await asyncio.to_thread(shown["in_a_thread"])
        assert await Outbox.of(shown["plain_session"]).sweep(scheduler.submit) == 2
        await shown["anywhere"]()
        await shown["with_a_task"]()
        await Outbox.of(shown["async_session"]).drain()
        tasks = {str(task.input): task.status for task in await scheduler.get_tasks()}
    await shown["engine"].dispose()
    shown["plain_engine"].dispose()
    assert tasks == {
        "{'id': 1, 'email': 'bob@example.com'}": "pending",
        "{'all': False}": "pending",
        "{'id': 2, 'email': 'ada@example.com'}": "pending",
        "{'was': 'ada@example.com'}": "pending",
        "{'all': True}": "scheduled",
    }
