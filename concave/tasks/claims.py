"""What a worker asks a store for: as much as it has room for, of the names that it knows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection

from concave.store.records import Claim, ClaimNames
from concave.tasks.defaults import (
    Occupied,
    end_suspect_turn,
    join_loop,
    leave_suspect_turn,
    take_suspect_turn,
)
from concave.tasks.lines import Line
from concave.tasks.registry import TaskRegistry
from concave.tasks.runs import Runs

__all__ = ["MAX_CLAIM", "TWO_LINES_FROM", "Claims", "share_of_line"]

MAX_CLAIM = 200
"""Tasks per claim. More would keep the store from others for too long at once."""
TWO_LINES_FROM = 32
"""Concurrency from which a second line pays: halves of fewer tasks cost more in exchanges than they save in waiting."""


def share_of_line(concurrency: int) -> int:
    """Tasks that one line of a worker claims, or settles, at a time."""
    return MAX_CLAIM if concurrency < TWO_LINES_FROM else min(MAX_CLAIM, -(-concurrency // 2))


class Claims:
    """The claims of one worker, from one start to its stop. `tell` is called when it may run suspects, from any thread.

    `patience`: seconds after which an idle worker claims again, whatever happens.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        registry: TaskRegistry,
        task_types: frozenset[str] | None,
        concurrency: int,
        lock_ttl: float,
        patience: float,
        runs: Runs,
        lines: list[Line],
        tell: Callable[[], object],
    ) -> None:
        self._worker_id = worker_id
        self._registry = registry
        self._task_types = task_types
        self._concurrency = concurrency
        self._share = share_of_line(concurrency)
        self._lease = round(lock_ttl * 1_000_000)
        self._stands = round((2 * patience + 1) * 1_000_000)
        self._runs = runs
        self._lines = lines
        self._tell = tell
        self._names: ClaimNames = ()
        self._names_of: object = None
        self._had_suspects = False
        self._on_loop: Collection[Occupied] = ()
        self.desk = secrets.token_hex(8)
        """Where answers come later. A new one for each start: what was meant for the worker before it isn't for this one."""
        self._start = secrets.token_urlsafe(6)
        self._number = 0

    @property
    def names(self) -> ClaimNames:
        """What the worker may claim, each with its cap."""
        known = self._registry.by_name
        if known is not self._names_of:
            self._names_of = known
            self._names = tuple(
                (name, task.max_concurrency or 0)
                for name, task in known.items()
                if self._task_types is None or name in self._task_types
            )
        return self._names

    def next_of(self, line: Line, *, begins: bool) -> Claim | None:
        """What to ask for; the same again, nonce and all, as long as there was no answer: it may have been carried out.

        A claim that stands is made again under its nonce, too, with what holds by now: it may have been answered meanwhile.
        A worker that `begins` nothing asks for nothing but what it may have been given already.
        """
        if not begins:
            return self._withdrawn(line.open)
        if line.unanswered is not None:
            return line.unanswered
        others = [claim for each in self._lines if each is not line and (claim := each.open) is not None]
        room = self._concurrency - len(self._runs) - sum(claim.limit for claim in others)
        if room <= 0 or not self.names:
            return self._withdrawn(line.standing)
        alone = self._runs.suspects == 0 and not any(claim.suspects for claim in others)
        if line.standing is None:
            line.aborted.clear()
        number = self._count()
        return Claim(
            worker_id=self._worker_id,
            names=self._names,
            limit=min(room, self._share),
            lease=self._lease,
            nonce=line.standing.nonce if line.standing else self._nonce(number),
            suspects=int(alone and take_suspect_turn(self, self._tell)),
            line=line.number,
            desk="" if line.number else self.desk,
            # A loop that runs nothing is there for what comes; another may be kept from it by a handler that blocks. And of its
            # workers one is enough: the first handler may block what the others were handed.
            stands=0 if line.number or self._runs or not self._is_alone_on_loop() else self._stands,
            number=number,
        )

    def _count(self) -> int:
        self._number += 1
        return self._number

    def _nonce(self, number: int) -> str:
        """Of 16 characters, eight for the start and eight for the claim."""
        return f"{self._start}{number % 16**8:08x}"

    def _withdrawn(self, claim: Claim | None) -> Claim | None:
        # It asks for something else than the claim that it withdraws, which may still be on its way.
        return claim and claim._replace(limit=0, suspects=0, stands=0, number=self._count())

    def _is_alone_on_loop(self) -> bool:
        self._on_loop = self._on_loop or join_loop(self)
        return len(self._on_loop) == 1 or not any(each.occupied for each in self._on_loop if each is not self)

    @property
    def occupied(self) -> bool:
        """Whether its worker runs something, or may be handed something."""
        return len(self._runs) > 0 or any(line.open is not None and line.open.stands for line in self._lines)

    def share_suspect_turn(self) -> None:
        """Let another worker of this process run suspects, unless this one does or is about to."""
        asked = any(line.unanswered is not None and line.unanswered.suspects for line in self._lines)
        if self._runs.suspects > 0:
            self._had_suspects = True
        elif not asked:
            end_suspect_turn(self, used=self._had_suspects)
            self._had_suspects = False

    def end(self) -> None:
        """The worker has stopped."""
        leave_suspect_turn(self, used=self._had_suspects)
