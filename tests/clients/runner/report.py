"""The table of a run, on the terminal and in docs/clients.md."""

import os
from dataclasses import dataclass, field

import versions
from versions import CLIENTS

PAGE = os.path.join(os.path.dirname(os.path.dirname(CLIENTS)), "docs", "clients.md")
# The marks around each table, by whether it was made with TLS.
BEGIN = {False: "<!-- table: scripts/clients --write-docs -->", True: "<!-- table: scripts/clients --tls --write-docs -->"}
END = "<!-- end of table -->"


@dataclass
class Side:
    """What one scenario did on one side: directly or through respool."""

    cases: list = field(default_factory=list)
    # Those that failed; what that makes wrong stands in `problems` unless they are left out.
    failed: list = field(default_factory=list)
    left_out: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    peak: int = 0
    opened: int = 0
    seconds: float = 0.0

    @property
    def passed(self):
        return not self.problems

    def cells(self):
        outcome = str(len(self.cases)) if self.passed else "FAILED"
        return [outcome, str(self.peak), str(self.opened), f"{self.seconds:.1f}"]


HEADINGS = ["library", "what", "direct: cases", "peak", "opened", "s", "respool: cases", "peak", "opened", "s"]


def table(rows):
    """Rows of (scenario, direct, through) as Markdown; a side that did not run is None."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * 2 + " ---: |" * 8]
    for scenario, direct, respool in rows:
        cells = [scenario.library, scenario.shows]
        for side in (direct, respool):
            cells += side.cells() if side else ["", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_page(rows, tls):
    """Puts the table between its marks in docs/clients.md, with the version of the server it was made on."""
    begin = BEGIN[tls]
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    before, rest = page.split(begin, 1)
    after = rest.split(END, 1)[1]
    origin = f"On {versions.redis_server()}:"
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n\n{origin}\n\n{table(rows)}\n\n{END}{after}")
