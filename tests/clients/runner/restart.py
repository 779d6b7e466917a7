"""A server that is killed with SIGKILL and is back within two seconds, under load from 200 clients, some of them idle.

The clients are node/restart.mjs and python/restart_clients.py. They count what was acknowledged and what has an unknown
outcome, and send nothing twice. With each of them this is said, by lines:

    it: READY                all clients are connected, the busy ones at work
    the runner: BACK 17...   the server answers again, since that time in epoch ms
    it: SERVED               every busy client has had replies since
    the runner: STOP
    it: RESULT {...}         what the clients saw

Through respool no idle client may notice anything, and no reply may be wrong: each acknowledged value of a counter is
unique, and the counter ends between what was acknowledged and that with what is unknown. Directly the figures are only for
comparison, except that no reply may be wrong there either.
"""

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from dataclasses import dataclass, field

from processes import DURABLE, MAX_CONNECTIONS, Failed, Respool, Server, log_tail
from scenarios import CACHE, NODE, PYTHON
from server_connection import ServerConnection
from watch import OWN_CONNECTIONS, UNLIMITED, Watch

NAME = "restart"
BUSY_EACH, IDLE_EACH = 80, 20
LIBRARIES = {
    "ioredis": (["node", "restart.mjs"], NODE),
    "redis-py": ([os.path.join(CACHE, "python", "bin", "python"), "restart_clients.py"], PYTHON),
}
# The server is stopped for this long before it is killed, so that it certainly owes replies: its own part in the time of a
# command is so small that it would often owe none.
STOPPED_S = 0.05
# From the kill to the start; the start and reading the data come on top, and all of it should stay below two seconds.
DOWN_S = 1.25
STEP_WITHIN_S = 60
# Generous: the machine may be busy with other things. The figure is printed, and is to be compared with one second.
BACK_WITHIN_MS = 10_000


class Load:
    """One process with clients of one library, and the lines it writes."""

    def __init__(self, library, place, folder):
        command, cwd = LIBRARIES[library]
        self.library = library
        self.log_path = os.path.join(folder, f"{library}.log")
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*command, str(BUSY_EACH), str(IDLE_EACH)],
                cwd=cwd,
                env=place.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def told(self, word):
        """Waits for the line that begins with this word; the rest of it."""
        try:
            line = self._lines.get(timeout=STEP_WITHIN_S)
        except queue.Empty:
            raise Failed(f"the {self.library} clients did not get to {word} within {STEP_WITHIN_S} s") from None
        if not line.startswith(word):
            raise Failed(f"the {self.library} clients said {line!r}, not {word}:\n{log_tail(self.log_path, 20)}")
        return line[len(word) :]


@dataclass
class Outcome:
    """What one run showed."""

    away_s: float = 0.0
    peak: int = 0
    refused: int = 0
    results: dict = field(default_factory=dict)
    finals: dict = field(default_factory=dict)

    def clients(self):
        """The busy ones of all libraries."""
        return [client for result in self.results.values() for client in result["busy"]]

    def disconnected(self):
        return [f"{library} {text}" for library, result in self.results.items() for text in result["disconnected"]]

    def counters(self):
        """Of each key: all values that were acknowledged, and how many outcomes are unknown."""
        counters = {client["key"]: (client["own"]["acknowledged"], client["own"]["unknown"]) for client in self.clients()}
        common = [client["common"] for client in self.clients()]
        acknowledged = [value for counts in common for value in counts["acknowledged"]]
        return counters | {"restart:common": (acknowledged, sum(counts["unknown"] for counts in common))}

    def wrong(self):
        """Every wrong reply and every counter that is not where it must be, as texts."""
        wrong = [f"{client['key']}: {text}" for client in self.clients() for text in client["wrong"]]
        for key, (acknowledged, unknown) in self.counters().items():
            final, least = self.finals[key], len(acknowledged)
            if len(set(acknowledged)) != least:
                wrong.append(f"{key}: {least} acknowledged, of which {len(set(acknowledged))} are different")
            if not least <= final <= least + unknown or final < max(acknowledged):
                wrong.append(f"{key} ended at {final}: {least} acknowledged up to {max(acknowledged)}, {unknown} unknown")
        return wrong

    def slowest_ms(self):
        return max(client["back_ms"] for client in self.clients())

    def lines(self):
        """The figures, for people."""
        yield f"server away for {self.away_s:.2f} s; peak {self.peak} connections, {self.refused} refused"
        for library, result in self.results.items():
            back = sorted(client["back_ms"] for client in result["busy"])
            late = sum(1 for ms in back if ms > 1000)
            yield (
                f"{library}: idle clients disconnected: {len(result['disconnected'])} of {IDLE_EACH}; first success of "
                f"{len(back)} busy ones after the server's: median {back[len(back) // 2]:.0f} ms, slowest {back[-1]:.0f} ms, "
                f"{late} past 1 s"
            )
            yield f"{library}: errors: " + (", ".join(f"{n} x {text}" for text, n in result["errors"].items()) or "none")
        counters = self.counters().values()
        acknowledged = sum(len(values) for values, _ in counters)
        unknown = sum(count for _, count in counters)
        ran = sum(self.finals.values()) - acknowledged
        yield f"INCR: {acknowledged} acknowledged, {unknown} unknown, of which {ran} ran; {len(self.wrong())} wrong"


def _drive(server, loads, limit):
    """The run itself, with clients that were just started."""
    outcome = Outcome()
    before = Watch(ServerConnection(server.port))
    before.start(limit)
    for load in loads:
        load.told("READY")
    before.stop()
    server.stop()
    time.sleep(STOPPED_S)
    server.kill()
    killed = time.monotonic()
    # Not a wait for something: this long the server is to be away.
    time.sleep(DOWN_S)
    server.start()
    connection = server.answering()
    back_ms = time.time() * 1000
    outcome.away_s = time.monotonic() - killed
    outcome.refused = before.refused + connection.info("stats", "rejected_connections")
    after = Watch(connection)
    after.start(limit)
    for load in loads:
        load.tell(f"BACK {back_ms}")
    for load in loads:
        load.told("SERVED")
    for load in loads:
        load.tell("STOP")
    outcome.results = {load.library: json.loads(load.told("RESULT ")) for load in loads}
    after.stop()
    outcome.peak = max(before.peak, after.peak)
    outcome.refused += after.refused
    with ServerConnection(server.port) as last:
        outcome.finals = {key: int(last.call("GET", key)) for key in outcome.counters()}
    return outcome


def _problems(outcome):
    """What must not be through respool."""
    problems = [f"idle client disconnected: {text}" for text in outcome.disconnected()] + outcome.wrong()
    if outcome.peak > MAX_CONNECTIONS or outcome.refused > 0:
        problems.append(f"{outcome.peak} connections, {outcome.refused} more refused; the pool is {MAX_CONNECTIONS}")
    if not any(result["errors"] for result in outcome.results.values()):
        problems.append("no command was without a reply when the server was killed: that shows nothing of duplicates")
    if outcome.slowest_ms() > BACK_WITHIN_MS:
        problems.append(f"a client's first success came {outcome.slowest_ms():.0f} ms after the server's")
    return problems


def run(binary, folder, certificates):
    """Runs it through the respool `binary`, or directly if that is None; whether all was as it must be."""
    problems = []
    limit = MAX_CONNECTIONS if binary else UNLIMITED
    # From its start on: it must not let in more when it comes back either.
    options = (*DURABLE, "--maxclients", str(limit + OWN_CONNECTIONS))
    with contextlib.ExitStack() as running:
        server = running.enter_context(Server(folder, certificates, options))
        respool = running.enter_context(Respool(binary, server, folder)) if binary else None
        place = respool.place if respool else server.place
        try:
            with contextlib.ExitStack() as clients:
                loads = [clients.enter_context(Load(library, place, folder)) for library in LIBRARIES]
                outcome = _drive(server, loads, limit)
            problems = _problems(outcome) if respool else outcome.wrong()
            figures = list(outcome.lines())
        except (Failed, OSError) as failure:
            problems, figures = [str(failure)], []
        if respool:
            problems += respool.end_clean(server)
        if problems and respool:
            problems.append("respool's log ended:\n" + log_tail(respool.log_path, 10))
    side = "respool" if binary else "direct"
    print(f"{NAME}, {side}: {'FAILED' if problems else 'passed'}", flush=True)
    for line in figures + problems:
        print(f"    {line}", flush=True)
    return not problems
