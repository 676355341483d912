"""`python -m benchmarks [--quick] [--only drain,idle] [--peers SAQ,arq] [--rounds N]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.catalogue import OURS, PEERS, Peer
from benchmarks.environments import prepare
from benchmarks.measures import drain, enqueue, growth, idle, latency, memory_store, web_process
from benchmarks.plan import FULL, QUICK, Measure, Scale
from benchmarks.report import Report
from benchmarks.running import carry_out
from tests.servers import RedisServer
from tests.servers.process import ROOT


def main() -> None:
    """Run the measures that were asked for, and write the report."""
    options = _options()
    scale: Scale = QUICK if options.quick else FULL
    peers = [peer for peer in PEERS if not options.peers or peer.name.lower() in options.peers]
    for peer in peers:
        prepare(peer)
    with RedisServer() as server:
        measures = _measures(peers, server.url, scale)
        if unknown := set(options.only) - {measure.key for measure in measures}:
            keys = ", ".join(measure.key for measure in measures)
            raise SystemExit(f"no such measure: {', '.join(sorted(unknown))}; there are {keys}")
        report = Report(options.out, options.name, {"redis": server.binary}, (OURS, *PEERS))
        for measure in measures:
            if not options.only or measure.key in options.only:
                report.add(measure, carry_out(measure, options.rounds or scale.rounds))
    print(report.markdown.read_text())


def _measures(peers: Sequence[Peer], url: str, scale: Scale) -> list[Measure]:
    return [
        *drain.measures(peers, url, scale),
        *enqueue.measures(peers, url, scale),
        *latency.measures(peers, url, scale),
        *idle.measures(peers, url, scale),
        *growth.measures(url, scale),
        *memory_store.measures(scale),
        *web_process.measures(url),
    ]


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.lower().split(",")

    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="a fraction of everything, once: does it work?")
    parser.add_argument("--only", type=names, default=[], help="measures, by their keys, with commas")
    parser.add_argument("--peers", type=names, default=[], help="peers, by their names, with commas")
    parser.add_argument("--rounds", type=int, help="how often each pair is run; the median counts")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "results", help="where the report goes")
    parser.add_argument("--name", default="report", help="its name there, without ending")
    return parser.parse_args()


if __name__ == "__main__":
    main()
