"""What is measured of a web process: rows, pages and writes a second, beside others and beside itself."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from benchmarks.catalogue import Peer
from benchmarks.environments import python_of
from benchmarks.http.databases import Database
from benchmarks.http.served import serve_posts
from benchmarks.peers.users import WIDTH
from benchmarks.plan import Figures, Goal, Measure, Scale, Scenario
from benchmarks.processes import environment_of
from tests.servers import ServerError
from tests.servers.process import ROOT

__all__ = ["CORE", "OURS", "PEERS", "measures"]

OURS = Peer("concave_sqlalchemy", "concave_sqlalchemy", "use_resource, with its defaults")
CORE = Peer(
    "by hand",
    "core",
    "Starlette and SQLAlchemy Core: the same validation and transaction, statements built once; a page has no filter, no order, no"
    " select and no signed cursor",
)
PEERS = (
    Peer(
        "FastCRUD",
        "fastcrud",
        "crud_router on FastAPI, with a schema to select by; its page counts",
    ),
    Peer(
        "Advanced Alchemy",
        "advanced_alchemy",
        "a service on Litestar, msgspec structs in and out; its page doesn't count",
    ),
)
TITLES = {"get": "GET /{id}", "page": "A page of 20", "post": "POST"}
COLUMNS = {"rps": "requests/s", "cpu_us": "µs of CPU a request"}
ROWS = 1000


def measures(peers: Sequence[Peer], every: Sequence[Database], redis: str, scale: Scale) -> list[Measure]:
    found: list[Measure] = []
    for database in every:
        found += [_beside(peers, database, way, scale) for way in TITLES]
        found += _triggers(database, redis, scale)
        found += [_depth(database, order, scale) for order in ("id:asc", "created_at:desc")]
    return found


def _beside(peers: Sequence[Peer], database: Database, way: str, scale: Scale) -> Measure:
    def scenario(peer: Peer) -> Scenario:
        return Scenario(peer.name, partial(_fresh, peer, database, way, scale), theirs=peer in PEERS)

    return Measure(
        f"{way}-{database.name}",
        f"{TITLES[way]}, {database.name}, {WIDTH} at a time",
        scenario(OURS),
        [scenario(CORE), *map(scenario, peers)],
        [
            Goal(
                "to a hand-written endpoint's",
                lambda result: result.ratio(CORE.name, "rps"),
                0.95,
                "at least",
                " ×",
            )
        ],
        COLUMNS,
    )


def _triggers(database: Database, redis: str, scale: Scale) -> list[Measure]:
    """A trigger's price, in the process itself and behind a server, whose own work is a part of every request."""
    about = f"{database.name} and Redis, no worker, {WIDTH} at a time"

    def bare(env: Mapping[str, str]) -> Figures:
        return _fresh(OURS, database, "post", scale, env)

    def served(env: Mapping[str, str]) -> Figures:
        database.fill(ROWS)
        return serve_posts(_environment(OURS, database, env), scale.seconds * 0.3, WIDTH)

    def measure(key: str, title: str, run: Callable[[Mapping[str, str]], Figures]) -> Measure:
        def scenario(name: str, triggers: str) -> Scenario:
            env = {"BENCH_REDIS": redis, "BENCH_TRIGGERS": triggers}
            return Scenario(name, partial(run, env), theirs=False)

        without = scenario("no trigger", "")
        goal = Goal(
            "to the rate without one", lambda result: result.ratio(without.name, "rps"), 0.8, "at least", " ×"
        )
        return Measure(
            f"{key}-{database.name}", title, scenario("one trigger", "1"), [without], [goal], COLUMNS
        )

    return [
        measure("trigger", f"POST with one trigger, and with none, {about}", bare),
        measure("trigger-served", f"The same behind uvicorn, {about}", served),
    ]


def _depth(database: Database, order: str, scale: Scale) -> Measure:
    deep = scale.many
    query = f"limit=20&orderBy={order}"
    cursors: list[str] = []

    def at_depth() -> Figures:
        if not cursors:
            database.fill(deep + 1000)
            walked = f"limit=10000&orderBy={order}&select=id"
            env = {"BENCH_MAX_LIMIT": "10000"}
            cursors.append(_drive(OURS, database, "walk", [str(deep), walked], env)["cursor"])
        return _run(OURS, database, "page", scale, query=f"{query}&cursor={cursors[0]}")

    def at_the_start() -> Figures:
        at_depth() if not cursors else None
        return _run(OURS, database, "page", scale, query=query)

    return Measure(
        f"depth-{order.partition(':')[0]}-{database.name}",
        f"A page of 20 after {deep:,} rows, and page one, by {order}, {database.name}",
        Scenario(f"after {deep:,}", at_depth, theirs=False),
        [Scenario("page one", at_the_start, theirs=False)],
        [
            Goal(
                "to the rate of page one",
                lambda result: result.ratio("page one", "rps"),
                0.9,
                "at least",
                " ×",
            )
        ],
        COLUMNS,
    )


def _fresh(
    peer: Peer, database: Database, way: str, scale: Scale, env: Mapping[str, str] | None = None
) -> Figures:
    database.fill(ROWS)
    return _run(peer, database, way, scale, env=env)


def _run(
    peer: Peer,
    database: Database,
    way: str,
    scale: Scale,
    *,
    query: str = "",
    env: Mapping[str, str] | None = None,
) -> Figures:
    # In three tenths of what other measures watch a process for: a run has enough requests by then.
    done = _drive(
        peer, database, way, [str(scale.seconds * 0.3), str(WIDTH), *([query] if query else [])], env
    )
    _check(way, json.loads(done["shown"]))
    return {"rps": done["count"] / done["seconds"], "cpu_us": done["cpu"] / done["count"] * 1e6}


def _check(way: str, shown: Any) -> None:
    """Every peer answers the same."""
    rows: list[Any] = [shown]
    if way == "page":
        rows = cast("list[Any]", shown if isinstance(shown, list) else shown.get("items") or shown["data"])
    wanted = {"id", "email", "name", "role", "active", "age", "score", "created_at"}
    if len(rows) != (20 if way == "page" else 1) or any(set(row) != wanted for row in rows):
        raise ServerError(f"{way} answered {shown}")


def _drive(
    peer: Peer, database: Database, way: str, args: Sequence[str], env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    command = [str(python_of(peer)), str(ROOT / "benchmarks" / "peers" / peer.folder / "app.py"), way, *args]
    done = subprocess.run(
        command,
        env=_environment(peer, database, env),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _environment(peer: Peer, database: Database, env: Mapping[str, str] | None) -> dict[str, str]:
    # Cursors of one process are read by another.
    return environment_of(peer, database.url, {"CONCAVE_SECRET": "benchmark", **(env or {})})
