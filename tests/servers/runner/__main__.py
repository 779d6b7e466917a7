"""Runs the end-to-end tests that concern the server on each of several servers. scripts/servers starts this."""

import argparse
import os
import sys

import answers
import report
import suite


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/servers", description=__doc__)
    parser.add_argument("--tests", required=True, help="the program of the end-to-end tests")
    parser.add_argument("--results", required=True, help="a folder for what the tests print")
    parser.add_argument("--quick", action="store_true", help="only what differs most between servers")
    parser.add_argument("--write-docs", action="store_true", help="write the tables to docs/servers.md")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help="the programs of the servers")
    return parser.parse_args()


def main():
    options = arguments()
    servers = [suite.Server.of(program) for program in options.programs]
    os.makedirs(options.results, exist_ok=True)
    chosen, elsewhere = suite.choose(options.tests, options.quick)
    print(f"    {len(chosen)} tests for each of {', '.join(str(server) for server in servers)}", flush=True)
    runs = []
    for server in servers:
        run = suite.run(options.tests, chosen, server, options.results)
        print(f"    {run.line()}", flush=True)
        runs.append(run)
    report.print_failures(runs)
    if not options.quick:
        print("\n" + report.tables(runs, elsewhere))
    if options.write_docs:
        report.write_page(runs, elsewhere, answers.differences(servers))
    failed = sum(len(run.failed) for run in runs)
    passed = sum(len(run.passed) for run in runs)
    left_out = sum(len(run.left_out) for run in runs)
    print(f"servers: {passed} passed, {failed} failed, {left_out} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
