"""Background tasks: define them, enqueue them, run them."""

from concave.store.records import TaskStatus
from concave.tasks.context import TaskContext
from concave.tasks.dead_letter import DeadLetterQueue, create_dead_letter_queue
from concave.tasks.defaults import get_task_registry, get_task_scheduler, initialize_tasks
from concave.tasks.define import TaskDefinition, define_task
from concave.tasks.lock import TaskLock, create_task_lock
from concave.tasks.model import (
    AttemptError,
    DeadLetterEntry,
    RecurringSchedule,
    Task,
    TaskProgress,
    WorkerStats,
    WorkerStatus,
)
from concave.tasks.options import DebounceConfig, RetentionConfig, RetryConfig
from concave.tasks.recurring import (
    RecurringManager,
    RecurringScheduler,
    create_recurring_manager,
    start_recurring_scheduler,
)
from concave.tasks.registry import TaskRegistry
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.signal import AbortSignal
from concave.tasks.worker import TaskWorker
from concave.tasks.workers import create_task_worker, start_task_workers

__all__ = [
    "AbortSignal",
    "AttemptError",
    "DeadLetterEntry",
    "DeadLetterQueue",
    "DebounceConfig",
    "RecurringManager",
    "RecurringSchedule",
    "RecurringScheduler",
    "RetentionConfig",
    "RetryConfig",
    "Task",
    "TaskContext",
    "TaskDefinition",
    "TaskLock",
    "TaskProgress",
    "TaskRegistry",
    "TaskScheduler",
    "TaskStatus",
    "TaskWorker",
    "WorkerStats",
    "WorkerStatus",
    "create_dead_letter_queue",
    "create_recurring_manager",
    "create_task_lock",
    "create_task_worker",
    "define_task",
    "get_task_registry",
    "get_task_scheduler",
    "initialize_tasks",
    "start_recurring_scheduler",
    "start_task_workers",
]
