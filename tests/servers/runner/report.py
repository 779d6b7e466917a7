"""What became of the tests on all servers, on the terminal and in docs/servers.md."""

import os
import re

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "docs", "servers.md")
BEGIN = "<!-- tables: scripts/servers --write-docs -->"
END = "<!-- end of tables -->"
# Of the output of one test that failed.
SHOWN_LINES = 60


def print_failures(runs):
    for run in runs:
        for name in run.failed:
            print(f"\n---- {name} on {run.server} ----")
            print("\n".join(output_of(run.output, name).splitlines()[:SHOWN_LINES]))


def output_of(output, name):
    """What libtest shows of a test that failed."""
    found = re.search(rf"^---- {re.escape(name)} stdout ----\n(.*?)(?=^---- \S+ stdout ----$|^failures:$|\Z)", output, re.S | re.M)
    return found.group(1).strip() if found else "it has no result: the run broke off, or was ended"


def tables(runs, elsewhere):
    """The tables of a run as Markdown."""
    return "\n\n".join(["## What was run", overview(runs), "## What was left out", left_out(runs), elsewhere_table(elsewhere)])


def overview(runs):
    rows = [
        [
            str(run.server),
            str(len(run.passed) + len(run.failed) + len(run.left_out)),
            str(len(run.passed)),
            str(len(run.failed)),
            str(len(run.left_out)),
            str(len(run.parts)),
        ]
        for run in runs
    ]
    return table(["server", "tests", "passed", "failed", "left out", "parts left out"], rows)


def left_out(runs):
    """Which tests were left out, and what the server answered when it was asked for what they are about."""
    rows = {}
    for run in runs:
        for name, reason in {**run.left_out, **run.parts}.items():
            rows.setdefault((name, reason), []).append(run.server.short)
    if not rows:
        return "Nothing."
    return table(
        ["test", "on", "why: what the server says"],
        [[code(name), ", ".join(servers), escape(reason)] for (name, reason), servers in sorted(rows.items())],
    )


def elsewhere_table(elsewhere):
    from suite import ELSEWHERE

    rows = [[code(module), str(len(names)), ELSEWHERE[module]] for module, names in sorted(elsewhere.items())]
    return "Modules of tests that run on one server, the machine's own, in `make test`:\n\n" + table(
        ["module", "tests", "what it is about"], rows
    )


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def code(text):
    return f"`{text}`"


def escape(text):
    return text.replace("|", "\\|")


def write_page(runs, elsewhere, differences):
    """Puts the tables between their marks in docs/servers.md."""
    with open(PAGE, encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    text = f"{tables(runs, elsewhere)}\n\n## What the servers answer differently\n\n{differences}"
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
