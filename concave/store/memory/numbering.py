"""Which task stands last under a debounce key whose submissions are numbered; see `Debounce.sequence`."""

from __future__ import annotations

from typing import NamedTuple

from concave.clock import Micros
from concave.store.memory.moments import Moments
from concave.store.records import DAY, NewTask

__all__ = ["Numbering"]

KeyOf = tuple[str, str]


class Latest(NamedTuple):
    """The highest number that was seen, the task that stands last, and until when that is known."""

    sequence: int
    task_id: str
    until: Micros


class Numbering:
    """What is known of numbered submissions, by a task's name and debounce key."""

    def __init__(self) -> None:
        self._latest: dict[KeyOf, Latest] = {}
        self._ends = Moments[KeyOf]()

    def tick(self, now: Micros) -> None:
        """Forget what is no longer to be known."""
        for _, key in self._ends.take(now):
            known = self._latest.get(key)
            if known is not None and known.until <= now:
                del self._latest[key]

    def concerns(self, new: NewTask) -> bool:
        """Whether this submission, or another one under its key, is numbered."""
        return new.debounce is not None and bool(new.debounce.sequence or _key(new) in self._latest)

    def overtaken(self, new: NewTask) -> str | None:
        """The task that stands last, where a submission with a number as high has been added before."""
        latest = self._latest.get(_key(new))
        if latest is None or new.debounce is None or not new.debounce.sequence:
            return None
        return latest.task_id if new.debounce.sequence <= latest.sequence else None

    def note(self, new: NewTask, standing: str, due: Micros) -> None:
        """Know, until a day after it is due, that this submission is the latest and which task stands for it."""
        key = _key(new)
        known = self._latest.get(key, Latest(0, "", 0))
        number = (new.debounce and new.debounce.sequence) or known.sequence
        latest = Latest(number, standing, max(due + DAY, known.until))
        self._latest[key] = latest
        self._ends.at(latest.until).append(key)

    def supersedes(self, new: NewTask) -> bool:
        """Whether another task stands last under this one's key."""
        known = self._latest.get(_key(new)) if new.debounce is not None else None
        return known is not None and known.task_id != new.id


def _key(new: NewTask) -> KeyOf:
    return new.name, new.debounce.key if new.debounce else ""
