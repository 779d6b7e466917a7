"""Runs every real client library against a server directly and through respool, and compares.

Started by scripts/clients, which installs the libraries. Both sides must pass the same cases; through respool the server
must never see more than the pool's connections, and afterwards only idle ones of respool's.
"""

import argparse
import os
import signal
import sys
import tempfile

import report
from processes import Failed, Respool, Server, log_tail, run_scenario, wait_until
from report import Side
from scenarios import every_scenario
from watch import OWN_CONNECTIONS, Watch, unsettled

MAX_CONNECTIONS = 8
SHARED_CONNECTIONS = 2
UNLIMITED = 10_000


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="scenarios whose name contains TEXT")
    parser.add_argument("--respool", metavar="PATH", help="use this binary and build none")
    parser.add_argument("--side", choices=["both", "direct", "respool"], default="both")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/clients.md")
    parser.add_argument("--list", action="store_true", help="only list the scenarios")
    return parser.parse_args()


def watched(scenario, server, port, folder, log_path):
    """Runs the scenario while the server is watched."""
    watch = Watch(server.port)
    watch.start()
    code, result = run_scenario(scenario, port, folder, log_path)
    watch.stop()
    side = Side(peak=watch.peak, opened=watch.opened)
    if result is not None:
        side.cases = result["passed"]
        side.seconds = sum(result["seconds"].values())
        side.problems += [f"case failed: {case}" for case in result["failed"]]
    if code is None:
        side.problems.append("did not end within its deadline")
    elif code != 0:
        side.problems.append(f"exit code {code}")
    if not side.cases:
        side.problems.append("no case passed")
    if side.problems:
        side.problems.append("its output ended:\n" + log_tail(log_path, 30))
    return side, watch.refused


def run_direct(scenario, server, folder):
    server.clean()
    side, _ = watched(scenario, server, server.port, folder, os.path.join(folder, "direct.log"))
    return side


def run_through(scenario, server, binary, folder):
    """As `run_direct`, with a respool of its own, and what must hold of respool itself."""
    server.clean()
    respool = Respool(binary, server, folder, MAX_CONNECTIONS, SHARED_CONNECTIONS)
    with respool:
        # One more than allowed is refused and counted by the server itself, however short it lives.
        server.limit_connections(MAX_CONNECTIONS + OWN_CONNECTIONS)
        side, refused = watched(scenario, server, respool.port, folder, os.path.join(folder, "respool-side.log"))
        server.limit_connections(UNLIMITED)
        if side.peak > MAX_CONNECTIONS or refused > 0:
            side.problems.append(f"{side.peak} connections, {refused} more refused; the pool is {MAX_CONNECTIONS}")
        side.problems += [f"left behind: {text}" for text in unsettled(server.port, Respool.INSTANCE)]
        try:
            wait_until("respool's own count of clients is 0", lambda: respool.connected_clients() == 0)
        except (Failed, OSError) as failure:
            side.problems.append(str(failure))
        code = respool.end()
        if code != 0:
            side.problems.append(f"respool ended with {code}")
        if not side.passed:
            side.problems.append("respool's log ended:\n" + log_tail(respool.log_path, 10))
    return side


def compare(direct, through):
    """Both sides must have passed the same cases."""
    missing = sorted(set(direct.cases) ^ set(through.cases))
    if direct.passed and through.passed and missing:
        through.problems.append(f"cases on one side only: {', '.join(missing)}")


def told(name, side):
    if side.passed:
        return f"{name} {len(side.cases)} cases, {side.peak} connections, {side.seconds:.1f} s"
    return f"{name} FAILED"


def run_one(scenario, server, options, folder):
    direct = through = None
    sides = []
    if options.side != "respool":
        direct = run_direct(scenario, server, folder)
        sides.append(("direct:", direct))
    if options.side != "direct":
        through = run_through(scenario, server, options.respool, folder)
        sides.append(("respool:", through))
    if direct and through:
        compare(direct, through)
    print(f"{scenario.name:26} " + " | ".join(told(name, side) for name, side in sides), flush=True)
    for name, side in sides:
        for problem in side.problems:
            print(f"    {name} {problem}", flush=True)
    return scenario, direct, through


def main():
    options = arguments()
    chosen = [s for s in every_scenario() if not options.only or any(text in s.name for text in options.only)]
    if options.list or not chosen:
        print("\n".join(scenario.name for scenario in every_scenario()))
        return 0 if options.list else f"no scenario has {' or '.join(options.only)} in its name; these are all"
    if not options.respool and options.side != "direct":
        return "--respool PATH is missing: which binary?"
    if options.write_docs and (options.only or options.side != "both"):
        return "--write-docs needs all scenarios on both sides: leave --only and --side out"
    # Asked to end, it ends what it started too: an exception passes through the blocks that do so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows = []
    with tempfile.TemporaryDirectory(prefix="respool-clients.") as folder, Server(folder) as server:
        for scenario in chosen:
            private = os.path.join(folder, scenario.name)
            os.mkdir(private)
            rows.append(run_one(scenario, server, options, private))
    failed = sum(1 for _, *sides in rows if not all(side.passed for side in sides if side))
    print(f"\n{report.table(rows)}\n")
    if options.write_docs:
        report.write_page(rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
