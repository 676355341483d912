"""The tasks that a worker knows by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from concave.errors import ConfigurationError
from concave.tasks.define import TaskDefinition

__all__ = ["TaskRegistry"]


class TaskRegistry:
    """Task definitions by name. Workers claim only names that are registered here when they claim."""

    def __init__(self, tasks: Iterable[TaskDefinition[Any, Any]] = ()) -> None:
        self._tasks: dict[str, TaskDefinition[Any, Any]] = {}
        for task in tasks:
            self.register(task)

    def register(self, task: TaskDefinition[Any, Any]) -> None:
        """Make a task known; a second one of the same name replaces the first.

        Raises `ConfigurationError` for what isn't a task.
        """
        if not isinstance(task, TaskDefinition):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{task!r} is no task: make one of it with define_task")
        # A fresh dict each time: a worker compares identities to see that the names it claims have changed.
        self._tasks = {**self._tasks, task.name: task}

    def get(self, name: str) -> TaskDefinition[Any, Any] | None:
        """The task of this name, if there is one."""
        return self._tasks.get(name)

    def get_all(self) -> list[TaskDefinition[Any, Any]]:
        """All tasks, in the order they were registered."""
        return list(self._tasks.values())

    @property
    def by_name(self) -> dict[str, TaskDefinition[Any, Any]]:
        """A snapshot, never changed afterwards."""
        return self._tasks
