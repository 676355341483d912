"""Carrying a measure out."""

import sys
import time

from benchmarks.plan import Figures, Measure, Result, Run, Scenario

__all__ = ["carry_out"]


def carry_out(measure: Measure, rounds: int) -> Result:
    """Peer, ours, peer, ours …, `rounds` times. Alone, the base is its own scenario."""
    runs: list[Run] = []
    for number in range(1, rounds + 1):
        for other in measure.others:
            figures = _run(measure.key, other, number, rounds)
            base = _run(measure.key, measure.base, number, rounds)
            runs.append(Run(other.name, figures, base, other.competes))
        if not measure.others:
            figures = _run(measure.key, measure.base, number, rounds)
            runs.append(Run(measure.base.name, figures, figures))
    return Result(measure.base.name, runs)


def _run(key: str, scenario: Scenario, number: int, rounds: int) -> Figures:
    start = time.monotonic()
    figures = scenario.run()
    shown = "  ".join(f"{figure} {value:,.4g}" for figure, value in figures.items())
    took = time.monotonic() - start
    print(f"[{key} {number}/{rounds}] {scenario.name}: {shown}  ({took:.1f} s)", file=sys.stderr, flush=True)
    return figures
