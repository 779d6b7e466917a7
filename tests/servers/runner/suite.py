"""The end-to-end tests on one server: which of them, and what became of each."""

import os
import re
import subprocess
import time
from dataclasses import dataclass, field

# Of a whole run of one server, so that a hang ends.
DEADLINE_S = 1200
# As many as the machine has cores keep it busy: the tests wait for most of their time.
THREADS = "3"
# What keeps both cores busy by itself: one after another, before the others.
ALONE = ("canary",)
# Of each canary: long enough for all its kinds of clients to have come and gone.
CANARY_S = "5"

# Modules that run on one server only, and why. What is not named here runs on each, new modules too.
ELSEWHERE = {
    "tls": "TLS, which no wheel's server has: on the machine's own in `make test`",
    "tls_admission": "TLS, which no wheel's server has: on the machine's own in `make test`",
    "tls_flow": "TLS, which no wheel's server has: on the machine's own in `make test`",
    "admin": "the admin endpoint, which no server sees",
    "alarms": "what operators are told, which no server sees",
    "arriving": "who is admitted, which no server sees",
    "caps": "who is admitted, which no server sees",
    "check": "the configuration",
    "credentials": "where secrets come from: what is done with them is in `auth`",
    "descriptors": "the limits of the process",
    "evictions": "who is admitted, which no server sees",
    "lifecycle": "start and end of the process",
    "listeners": "the configuration",
    "logging": "the log",
    "many_clients": "figures: how much memory and time, on one server",
    "own_secrets": "the configuration",
    "reload": "the configuration",
    "hostile::memory": "what the process holds, which no server sees",
    "hostile::fairness::crowds": "figures: what a command costs respool, on one server",
    "canary::neighbours": "how long clients wait: figures, on the machine's own in `make test`",
}

# What differs most between servers; the rest of the suite runs on all of them in `scripts/servers` without --quick.
QUICK = ("auth", "clients", "differential", "endless_commands", "protocol", "pubsub", "tracking", "transactions", "waits")


@dataclass(frozen=True)
class Server:
    """A server by its program, and what it says of itself."""

    program: str
    name: str
    version: str

    @classmethod
    def of(cls, program):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.match(r"(\w+) server v=([\w.-]+)", said)
        if not found:
            raise SystemExit(f"{program} does not say which server it is: {said}")
        return cls(program, *found.groups())

    def __str__(self):
        return f"{self.name} {self.version}"

    @property
    def short(self):
        """`Redis 7.0`."""
        return f"{self.name} {'.'.join(self.version.split('.')[:2])}"


@dataclass
class Run:
    """What became of the tests on one server. What was left out, with the reason, is a part of a test where it has a
    second name behind a blank."""

    server: Server
    seconds: float
    passed: list = field(default_factory=list)
    failed: list = field(default_factory=list)
    left_out: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    output: str = ""

    def line(self):
        left_out = f"{len(self.left_out)} left out"
        if self.parts:
            left_out += f" and {len(self.parts)} parts of others"
        return f"{self.server}: {len(self.passed)} passed, {len(self.failed)} failed, {left_out}, {self.seconds:.0f} s"


def choose(tests, quick):
    """The names of the tests to run, and of those that run elsewhere, by module."""
    listed = subprocess.run([tests, "--list", "--format", "terse"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
    chosen, elsewhere = [], {}
    for name in names:
        module = name.split("::")[0]
        reasons = [elsewhere_at for elsewhere_at in ELSEWHERE if f"{name}::".startswith(f"{elsewhere_at}::")]
        if reasons:
            elsewhere.setdefault(reasons[0], []).append(name)
        elif not quick or module in QUICK:
            chosen.append(name)
    if not chosen:
        raise SystemExit(f"{tests} lists no test that concerns the server")
    return chosen, elsewhere


def run(tests, chosen, server, results):
    """Runs the tests on a server."""
    place = os.path.join(results, server.short.lower().replace(" ", "-"))
    left_out = f"{place}.left-out"
    if os.path.exists(left_out):
        os.remove(left_out)
    environment = dict(os.environ, REDIS_SERVER=server.program, RESPOOL_LEFT_OUT=left_out)
    environment.setdefault("RESPOOL_SOAK_SECONDS", CANARY_S)
    begun = time.monotonic()
    alone = [name for name in chosen if name.split("::")[0] in ALONE]
    others = [name for name in chosen if name not in alone]
    with open(f"{place}.out", "w", encoding="utf-8") as out, open(f"{place}.err", "w", encoding="utf-8") as err:
        for threads, names in (("1", alone), (THREADS, others)):
            if not names:
                continue
            child = subprocess.Popen(
                [tests, "--test-threads", threads, "--exact", *names],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
            )
            try:
                child.wait(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    with open(f"{place}.out", encoding="utf-8", errors="replace") as file:
        output = file.read()
    # One that was begun and has no result, since the run was ended or broke off, has failed.
    return judge(Run(server, time.monotonic() - begun, output=output), chosen, left_out_in(left_out))


def left_out_in(path):
    """The names that tests were left out under, with the reasons."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return dict(line.rstrip("\n").split("\t", 1) for line in file)


def judge(run, chosen, left_out):
    """Sorts the tests by what became of them."""
    results = dict(re.findall(r"^test (\S+)(?: - [^\n]*?)? \.\.\. (ok|FAILED)$", run.output, re.MULTILINE))
    for name in chosen:
        if results.get(name) != "ok":
            run.failed.append(name)
        elif name in left_out:
            run.left_out[name] = left_out[name]
        else:
            run.passed.append(name)
    run.parts = {name: reason for name, reason in left_out.items() if name not in run.left_out}
    return run
