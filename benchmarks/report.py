"""Results as JSON and as Markdown."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.catalogue import Peer
from benchmarks.plan import Measure, Result

__all__ = ["Report"]


class Report:
    """Written anew after each measure, so that a run cut short leaves what it had."""

    def __init__(self, folder: Path, name: str, about: Mapping[str, str], peers: Iterable[Peer]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.markdown = folder / f"{name}.md"
        self._json = folder / f"{name}.json"
        self._about = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            **about,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        self._peers = list(peers)
        self._done: list[tuple[Measure, Result]] = []

    def add(self, measure: Measure, result: Result) -> None:
        """Another measure is done."""
        self._done.append((measure, result))
        self._json.write_text(json.dumps(self._data(), indent=1) + "\n")
        self.markdown.write_text(self._text())

    def _data(self) -> dict[str, Any]:
        return {
            "about": {**self._about, "load": list(os.getloadavg())},
            "measures": {
                measure.key: {
                    "title": measure.title,
                    "base": result.base,
                    "runs": [
                        {"scenario": run.scenario, "figures": dict(run.figures), "base": dict(run.base)}
                        for run in result.runs
                    ],
                    "goals": [
                        {"text": text, "value": value, "limit": limit, "reached": reached}
                        for text, value, limit, reached in _judged(measure, result)
                    ],
                }
                for measure, result in self._done
            },
        }

    def _text(self) -> str:
        about = ", ".join(f"{key} {value}" for key, value in self._about.items())
        parts = [f"# Benchmarks\n\n{about}. Medians; ratios are medians over pairs run one after the other."]
        parts.append(
            "\n".join(["| measure | must reach | measured | |", "|---|---|---|---|", *self._goals()])
        )
        parts += [_table(measure, result) for measure, result in self._done]
        notes = [f"- {peer.name}: {peer.note}" for peer in self._peers]
        parts.append("## How each is set up\n\n" + "\n".join(notes))
        return "\n\n".join(parts) + "\n"

    def _goals(self) -> list[str]:
        return [
            f"| {measure.key}: {text} | {limit} | {_number(value)} | {'yes' if reached else '**no**'} |"
            for measure, result in self._done
            for text, value, limit, reached in _judged(measure, result)
        ]


def _judged(measure: Measure, result: Result) -> list[tuple[str, float, str, bool]]:
    judged: list[tuple[str, float, str, bool]] = []
    for goal in measure.goals:
        try:
            value = goal.value(result)
        except LookupError:
            continue  # it is to somebody else's figure, and nobody else ran
        limit = f"{'≥' if goal.kind == 'at least' else '≤'} {_number(goal.limit)}{goal.unit}"
        judged.append((goal.text, value, limit, goal.reached(value)))
    return judged


def _table(measure: Measure, result: Result) -> str:
    head: Sequence[str] = ["", *measure.columns.values()]
    rows = [f"## {measure.title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    ours = [_number(result.ours(figure)) for figure in measure.columns]
    rows.append(f"| **{result.base}** | {' | '.join(ours)} |")
    for name in result.scenarios:
        if name == result.base:
            continue
        theirs = [_beside(result, name, figure) for figure in measure.columns]
        rows.append(f"| {name} | {' | '.join(theirs)} |")
    rows.append("\nIn brackets: the first row's figure divided by this one.")
    return "\n".join(rows)


def _beside(result: Result, name: str, figure: str) -> str:
    value, ratio = result.theirs(name, figure), result.ratio(name, figure)
    return f"{_number(value)} ({_number(ratio)}×)" if value else _number(value)


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
