"""Carrying a measure out."""

import subprocess
import sys
import time

from benchmarks.plan import Figures, Measure, Result, Run, Scenario
from tests.servers import ServerError

__all__ = ["carry_out"]


def carry_out(measure: Measure, rounds: int) -> Result:
    """Each of the others and the base, one right after the other, `rounds` times. Alone, the base is its own scenario."""
    runs: list[Run] = []
    for number in range(1, rounds + 1):
        for other in measure.others:
            try:
                figures, base = _run_both(measure, other, number, rounds)
            except (ServerError, TimeoutError, subprocess.TimeoutExpired) as error:
                if not other.theirs:
                    raise
                # A peer that hangs or breaks is left out of the table, and the rest goes on.
                print(f"[{measure.key}] {other.name} failed: {error}", file=sys.stderr, flush=True)
                continue
            runs.append(Run(other.name, figures, base, other.competes))
        if not measure.others:
            figures = _run(measure.key, measure.base, number, rounds)
            runs.append(Run(measure.base.name, figures, figures))
    return Result(measure.base.name, runs)


def _run_both(measure: Measure, other: Scenario, number: int, rounds: int) -> tuple[Figures, Figures]:
    # By turns, the one first and then the other: a machine that has just worked hard may be slower for it, or warmer.
    if number % 2:
        figures = _run(measure.key, other, number, rounds)
        return figures, _run(measure.key, measure.base, number, rounds)
    base = _run(measure.key, measure.base, number, rounds)
    return _run(measure.key, other, number, rounds), base


def _run(key: str, scenario: Scenario, number: int, rounds: int) -> Figures:
    start = time.monotonic()
    figures = scenario.run()
    shown = "  ".join(f"{figure} {value:,.4g}" for figure, value in figures.items())
    took = time.monotonic() - start
    print(f"[{key} {number}/{rounds}] {scenario.name}: {shown}  ({took:.1f} s)", file=sys.stderr, flush=True)
    return figures
