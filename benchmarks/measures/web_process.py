"""What we add to a web process that imports Starlette, Pydantic, SQLAlchemy and redis anyway: imports, and the lifespan's start."""

import json
import subprocess

from benchmarks.catalogue import OURS
from benchmarks.environments import python_of
from benchmarks.plan import Figures, Goal, Measure, Scenario
from benchmarks.processes import environment_of
from tests.servers import ServerError
from tests.servers.process import ROOT

__all__ = ["measures"]


def measures(url: str) -> list[Measure]:
    return [
        Measure(
            "web-process",
            "A web process: import concave, concave_sqlalchemy, and the start of the lifespan (one worker, on Redis)",
            Scenario("concave", lambda: _start(url)),
            [],
            [
                Goal("time", lambda result: result.ours("ms"), 100, "at most", " ms"),
                Goal("resident memory", lambda result: result.ours("mb"), 6, "at most", " MB"),
            ],
            {"ms": "ms", "mb": "MB", "import_ms": "ms of imports", "import_mb": "MB of imports"},
        )
    ]


def _start(url: str) -> Figures:
    script = ROOT / "benchmarks" / "peers" / OURS.folder / "web.py"
    done = subprocess.run(
        [str(python_of(OURS)), str(script)],
        env=environment_of(OURS, url, None),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode != 0:
        raise ServerError(f"{script} failed:\n{done.stderr[-4000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures
