"""Ours against ours: two processes, a million tasks waiting, many names."""

from collections.abc import Callable
from functools import partial

from benchmarks.catalogue import OURS
from benchmarks.measures.drain import drain
from benchmarks.plan import Goal, Measure, Result, Scale, Scenario

__all__ = ["measures"]

COLUMNS = {"rate": "tasks/s", "worker_us": "worker µs", "redis_us": "Redis µs", "rss_mb": "RSS MB"}


def measures(url: str, scale: Scale) -> list[Measure]:
    one = Scenario(f"{scale.tasks:,} queued", partial(drain, OURS, url, scale.tasks))
    two = Scenario("two processes", partial(drain, OURS, url, 2 * scale.tasks, processes=2), theirs=False)
    queued = Scenario(f"{scale.many:,} queued", partial(drain, OURS, url, scale.many), theirs=False)
    delayed = Scenario(
        f"{scale.many:,} delayed beside",
        partial(drain, OURS, url, scale.tasks, delayed=scale.many),
        theirs=False,
    )
    names = Scenario(
        "200 names, 20 with a cap",
        partial(drain, OURS, url, scale.tasks, env={"BENCH_NAMES": "200"}),
        theirs=False,
    )
    return [
        Measure(
            "two-processes",
            "One process, and two",
            one,
            [two],
            [
                Goal("worker CPU a task, of one's", _share(two, "worker_us"), 1.15, "at most", "×"),
                Goal("Redis CPU a task, of one's", _share(two, "redis_us"), 1.15, "at most", "×"),
            ],
            COLUMNS,
        ),
        Measure(
            "many",
            f"{scale.many:,} tasks queued, and {scale.many:,} delayed beside {scale.tasks:,}",
            one,
            [queued, delayed],
            [
                Goal("rate with many queued", _share(queued, "rate"), 0.9, "at least", "×"),
                Goal("rate with many delayed", _share(delayed, "rate"), 0.9, "at least", "×"),
                Goal("RSS after many tasks", _of(queued, "rss_mb"), 60, "at most", " MB"),
                Goal(
                    "RSS after many tasks, of that after few", _share(queued, "rss_mb"), 1.1, "at most", "×"
                ),
                Goal("bytes a queued task", _of(queued, "queued_bytes"), 450, "at most"),
                Goal("bytes a finished task", _of(queued, "finished_bytes"), 450, "at most"),
            ],
            {**COLUMNS, "queued_bytes": "bytes queued", "finished_bytes": "bytes finished"},
        ),
        Measure(
            "names",
            "200 task names, 20 of them with max_concurrency",
            one,
            [names],
            [Goal("rate, of that with one", _share(names, "rate"), 0.8, "at least", "×")],
            COLUMNS,
        ),
    ]


def _share(scenario: Scenario, figure: str) -> Callable[[Result], float]:
    return lambda result: 1 / result.ratio(scenario.name, figure)


def _of(scenario: Scenario, figure: str) -> Callable[[Result], float]:
    return lambda result: result.theirs(scenario.name, figure)
