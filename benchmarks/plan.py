"""A benchmark as data: what is run, beside what, and what must come out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

__all__ = [
    "FULL",
    "QUICK",
    "Figures",
    "Goal",
    "Measure",
    "Result",
    "Run",
    "Scale",
    "Scenario",
    "beside_fastest",
]

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    tasks: int
    many: int
    samples: int
    seconds: float
    """For how long an idle process is watched, or requests are sent."""
    rounds: int


FULL = Scale(tasks=10_000, many=1_000_000, samples=500, seconds=10.0, rounds=5)
QUICK = Scale(tasks=2_000, many=20_000, samples=60, seconds=3.0, rounds=1)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of the things that are compared: a peer, or one of our own set-ups."""

    name: str
    run: Callable[[], Figures]
    competes: bool = True
    """Whether it can be the fastest peer."""
    theirs: bool = True
    """Whether it is someone else's code, whose failure is no failure of ours."""


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario beside the base, one right after the other, so that both met the same machine."""

    scenario: str
    figures: Figures
    base: Figures
    competes: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of a measure."""

    base: str
    runs: Sequence[Run]

    @property
    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(run.scenario for run in self.runs))

    def ours(self, figure: str) -> float:
        """The base's median."""
        return median(run.base[figure] for run in self.runs)

    def theirs(self, scenario: str, figure: str) -> float:
        """A scenario's median."""
        return median(run.figures[figure] for run in self.runs if run.scenario == scenario)

    def ratio(self, scenario: str, figure: str) -> float:
        """The base's figure to the scenario's: the median over the pairs."""
        return median(
            run.base[figure] / run.figures[figure] if run.figures[figure] else float("inf")
            for run in self.runs
            if run.scenario == scenario
        )

    def best(self, figure: str, *, highest: bool, among: Collection[str] | None = None) -> str:
        """The competing scenario with the best median, the base aside; `LookupError` where none of them ran to its end."""
        rivals = dict.fromkeys(
            run.scenario for run in self.runs if run.competes and run.scenario != self.base
        )
        chosen = [name for name in rivals if among is None or name in among]
        if not chosen:
            raise LookupError("nobody ran beside it")
        return (max if highest else min)(chosen, key=lambda name: self.theirs(name, figure))


@dataclass(frozen=True, slots=True)
class Goal:
    """What must come out of a measure."""

    text: str
    value: Callable[[Result], float]
    limit: float
    kind: Literal["at least", "at most"]
    unit: str = ""

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.kind == "at least" else value <= self.limit


@dataclass(frozen=True, slots=True)
class Measure:
    """A base and what is set beside it: run in turns, `rounds` times."""

    key: str
    title: str
    base: Scenario
    others: Sequence[Scenario]
    goals: Sequence[Goal]
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """Figure -> heading, for the table."""


def beside_fastest(
    figure: str, *, highest: bool = True, among: Collection[str] | None = None
) -> Callable[[Result], float]:
    """Ours to the best peer's figure, for a goal."""
    return lambda result: result.ratio(result.best(figure, highest=highest, among=among), figure)
