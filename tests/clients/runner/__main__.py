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
import restart
from authority import make_certificates
from processes import MAX_CONNECTIONS, Respool, Server, log_tail, run_scenario
from report import Side
from scenarios import every_scenario
from server_connection import ServerConnection
from trust import unverified
from watch import UNLIMITED, Watch


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="scenarios whose name contains TEXT")
    parser.add_argument("--respool", metavar="PATH", help="use this binary and build none")
    parser.add_argument("--side", choices=["both", "direct", "respool"], default="both")
    parser.add_argument("--tls", action="store_true", help="clients and respool speak TLS, verified by a private authority")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/clients.md")
    parser.add_argument("--list", action="store_true", help="only list the scenarios")
    return parser.parse_args()


def watched(scenario, server, place, folder, log_path, limit=UNLIMITED, left_out=()):
    """Runs the scenario while the server is watched; how many connections past the limit it refused comes with it. Cases of
    `left_out` may fail."""
    watch = Watch(ServerConnection(server.port))
    watch.start(limit)
    code, result = run_scenario(scenario, place, folder, log_path)
    watch.stop()
    side = Side(peak=watch.peak, opened=watch.opened)
    if result is not None:
        side.cases = result["passed"]
        side.seconds = sum(result["seconds"].values())
        side.failed = result["failed"]
        side.left_out = [case for case in side.failed if case in left_out]
        side.problems += [f"case failed: {case}" for case in side.failed if case not in left_out]
    if code is None:
        side.problems.append("did not end within its deadline")
    elif code != 0 and not side.left_out:
        side.problems.append(f"exit code {code}")
    if not side.cases:
        side.problems.append("no case passed")
    if side.problems:
        side.problems.append("its output ended:\n" + log_tail(log_path, 30))
    return side, watch.refused


def run_direct(scenario, server, stranger, folder):
    server.clean()
    mistakes = unverified(scenario, server, stranger, folder) if stranger else []
    server.clean()
    side, _ = watched(scenario, server, server.place, folder, os.path.join(folder, "direct.log"))
    side.problems += mistakes
    return side


def run_through(scenario, server, binary, folder, left_out):
    """As `run_direct`, with a respool of its own, and what must hold of respool itself. Cases of `left_out` may fail."""
    server.clean()
    respool = Respool(binary, server, folder)
    with respool:
        log_path = os.path.join(folder, "respool-side.log")
        side, refused = watched(scenario, server, respool.place, folder, log_path, MAX_CONNECTIONS, left_out)
        if side.peak > MAX_CONNECTIONS or refused > 0:
            side.problems.append(f"{side.peak} connections, {refused} more refused; the pool is {MAX_CONNECTIONS}")
        side.problems += respool.end_clean(server)
        if not side.passed:
            side.problems.append("respool's log ended:\n" + log_tail(respool.log_path, 10))
    return side


def compare(direct, through):
    """Both sides must have passed the same cases, but for those that the library cannot do at the server itself."""
    missing = sorted((set(direct.cases) ^ set(through.cases)) - set(direct.left_out))
    if direct.passed and through.passed and missing:
        through.problems.append(f"cases on one side only: {', '.join(missing)}")


def told(name, side):
    if side.passed:
        return f"{name} {len(side.cases)} cases, {side.peak} connections, {side.seconds:.1f} s"
    return f"{name} FAILED"


def leave_out(scenario, direct):
    """On a server that the scenarios were not written for a library may not get on with the server itself: such cases are
    named, and through respool they may pass or fail."""
    of_cases = [f"case failed: {case}" for case in direct.failed]
    if direct.cases and direct.failed and direct.problems[: len(of_cases) + 1] == [*of_cases, "exit code 1"]:
        direct.left_out, direct.problems = direct.failed, []
        print(f"{scenario.name}: left out, fails directly at this server: {', '.join(direct.failed)}", flush=True)


def run_one(scenario, server, stranger, options, folder):
    direct = through = None
    sides = []
    if options.side != "respool":
        direct = run_direct(scenario, server, stranger, folder)
        sides.append(("direct:", direct))
        if "REDIS_SERVER" in os.environ:
            leave_out(scenario, direct)
    if options.side != "direct":
        left_out = direct.left_out if direct else []
        through = run_through(scenario, server, options.respool, folder, left_out)
        sides.append(("respool:", through))
    if direct and through:
        compare(direct, through)
    print(f"{scenario.name:26} " + " | ".join(told(name, side) for name, side in sides), flush=True)
    for name, side in sides:
        for problem in side.problems:
            print(f"    {name} {problem}", flush=True)
    return scenario, direct, through


def chosen(options, names):
    """Those that `--only` names."""
    return [name for name in names if not options.only or any(text in name for text in options.only)]


def run_all(options, names, folder):
    """Runs the scenarios of these names; the rows of the table and, if the restart was among them, whether it passed."""
    certificates = stranger = None
    if options.tls:
        certificates = make_certificates(os.path.join(folder, "authority"))
        stranger = make_certificates(os.path.join(folder, "stranger")).authority
    rows, restarted = [], []
    with Server(folder, certificates) as server:
        for scenario in every_scenario():
            if scenario.name in names:
                private = os.path.join(folder, scenario.name)
                os.mkdir(private)
                rows.append(run_one(scenario, server, stranger, options, private))
    if restart.NAME in names:
        sides = {"direct": None, "respool": options.respool}
        for side, binary in sides.items():
            if options.side in ("both", side):
                private = os.path.join(folder, f"{restart.NAME}-{side}")
                os.mkdir(private)
                restarted.append(restart.run(binary, private, certificates))
    return rows, restarted


def main():
    options = arguments()
    every_name = [scenario.name for scenario in every_scenario()] + [restart.NAME]
    names = chosen(options, every_name)
    if options.list or not names:
        print("\n".join(every_name))
        return 0 if options.list else f"no scenario has {' or '.join(options.only)} in its name; these are all"
    if not options.respool and options.side != "direct":
        return "--respool PATH is missing: which binary?"
    if options.write_docs and (options.only or options.side != "both"):
        return "--write-docs needs all scenarios on both sides: leave --only and --side out"
    # Asked to end, it ends what it started too: an exception passes through the blocks that do so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="respool-clients.") as folder:
        rows, restarted = run_all(options, names, folder)
    outcomes = [all(side.passed for side in sides if side) for _, *sides in rows] + restarted
    if rows:
        print(f"\n{report.table(rows)}\n")
    if options.write_docs:
        report.write_page(rows, options.tls)
    print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
