"""`python -m benchmarks.http [--quick] [--only get,post] [--databases sqlite] [--peers FastCRUD] [--rounds N]`."""

import argparse
from pathlib import Path

from benchmarks.environments import prepare
from benchmarks.http.databases import databases
from benchmarks.http.measures import CORE, OURS, PEERS, measures
from benchmarks.plan import FULL, QUICK, Scale
from benchmarks.report import Report
from benchmarks.running import carry_out
from tests.servers import RedisServer
from tests.servers.process import ROOT


def main() -> None:
    """Run the measures that were asked for, and write the report."""
    options = _options()
    scale: Scale = QUICK if options.quick else FULL
    peers = [peer for peer in PEERS if options.peers is None or peer.name.lower() in options.peers]
    for peer in peers:
        prepare(peer)
    with RedisServer() as redis, databases() as every:
        chosen = [each for each in every if not options.databases or each.name in options.databases]
        about = {each.name: each.version for each in chosen}
        report = Report(options.out, options.name, about, (OURS, CORE, *peers))
        for measure in measures(peers, chosen, redis.url, scale):
            if not options.only or any(measure.key.startswith(each) for each in options.only):
                report.add(measure, carry_out(measure, options.rounds or scale.rounds))
    print(report.markdown.read_text())


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.lower().split(",") if name]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.http")
    parser.add_argument("--quick", action="store_true", help="a fraction of everything, once: does it work?")
    parser.add_argument(
        "--only", type=names, default=[], help="measures, by how their keys begin, with commas"
    )
    parser.add_argument("--databases", type=names, default=[], help="sqlite, postgresql")
    parser.add_argument(
        "--peers", type=names, help="peers, by their names, with commas; the hand-written one always runs"
    )
    parser.add_argument("--rounds", type=int, help="how often each pair is run; the median counts")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "results", help="where the report goes")
    parser.add_argument("--name", default="http", help="its name there, without ending")
    return parser.parse_args()


if __name__ == "__main__":
    main()
