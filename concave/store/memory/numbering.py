"""Which task stands last under a debounce key whose submissions are numbered; see `Debounce.sequence`."""

from __future__ import annotations

from typing import NamedTuple

from concave.clock import Micros
from concave.store.memory.expiries import Expiries
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

    def __init__(self, expiries: Expiries) -> None:
        self._latest: dict[KeyOf, Latest] = {}
        self._expiries = expiries

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
        self._expiries.at(latest.until, self._forget, key, latest.until)

    def supersedes(self, new: NewTask) -> bool:
        """Whether another task stands last under this one's key."""
        known = self._latest.get(_key(new))
        return known is not None and known.task_id != new.id

    def _forget(self, key: KeyOf, until: Micros) -> None:
        known = self._latest.get(key)
        if known is not None and known.until <= until:
            del self._latest[key]


def _key(new: NewTask) -> KeyOf:
    return new.name, new.debounce.key if new.debounce else ""
