"""What a claim may take, and what it must: a store chooses, and this tells what is wrong with its choice."""

from __future__ import annotations

from collections.abc import Sequence

from concave.store.records import Claim
from tests.stores.model import Model


def problems_of(model: Model, claim: Claim, taken: Sequence[str]) -> list[str]:
    """What is wrong with a store's choice. Which names it serves first within a bucket is its own business."""
    caps = dict(claim.names)
    ready = {
        task_id: task
        for task_id, task in model.tasks.items()
        if not task.run and not task.ended and task.due <= model.now and task.new.name in caps
    }
    if len(set(taken)) != len(taken) or not set(taken) <= ready.keys():
        return [f"took {taken}, of which not all can be claimed"]
    found: list[str] = []
    left = [task for task_id, task in ready.items() if task_id not in taken]
    chosen = [ready[task_id] for task_id in taken]
    running = [task.new.name for task in model.tasks.values() if task.run] + [
        task.new.name for task in chosen
    ]
    full = {name for name, cap in caps.items() if cap and running.count(name) >= cap}
    suspects = sum(task.crashes > 0 for task in chosen)
    if len(taken) > claim.limit or suspects > claim.suspects:
        found.append("took more than it may")
    for task in chosen:
        cap = caps[task.new.name]
        if cap and running.count(task.new.name) > cap:
            found.append(f"took more of {task.new.name} than its cap")
    if [task.lane[0] for task in chosen] != sorted((task.lane[0] for task in chosen), reverse=True):
        found.append("the leases don't come by bucket")
    for lane in {task.lane for task in chosen}:
        oldest = sorted((task for task in ready.values() if task.lane == lane), key=lambda task: task.created)
        mine = [task for task in chosen if task.lane == lane]
        if mine != oldest[: len(mine)]:
            found.append(f"lane {lane} isn't first in, first out")
    for task in left:
        suspect = task.crashes > 0
        if (
            len(taken) < claim.limit
            and task.new.name not in full
            and not (suspect and suspects >= claim.suspects)
        ):
            found.append(f"left {task.new.id} though there was room")
        for other in chosen:
            room = task.new.name not in full or other.new.name == task.new.name
            unsuspicious = not suspect or other.crashes > 0 or suspects < claim.suspects
            if other.lane[0] < task.lane[0] and room and unsuspicious:
                found.append(f"took {other.new.id} before {task.new.id} of a higher bucket")
    return found
