"""The processes of a run: a private server, respool before it, and the scenarios' own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass

import versions
from server_connection import ServerConnection, ServerError
from watch import unsettled

READY_WITHIN_S = 20
END_WITHIN_S = 20
SCENARIO_DEADLINE_S = 240
# The pool of every respool here.
MAX_CONNECTIONS = 8
SHARED_CONNECTIONS = 2

RESPOOL_CONFIG = """\
instance = "{instance}"

[[listener]]
address = "127.0.0.1:{port}"
{listener_tls}
[upstream]
address = "127.0.0.1:{server_port}"
max_connections = {max_connections}
shared_connections = {shared_connections}
{upstream_tls}
[admin]
address = "127.0.0.1:{admin_port}"
"""


LISTENER_TLS = """\
tls = {{ cert_file = "{certificates.certificate}", key_file = "{certificates.key}" }}
"""

UPSTREAM_TLS = """\
tls = {{ enabled = true, ca_file = "{certificates.authority}" }}
"""


class Failed(Exception):
    """A process did not do what the run needs; the text says which and why."""


@dataclass(frozen=True)
class Place:
    """Where clients are sent: a port on 127.0.0.1, which speaks TLS when there is an authority to verify it by."""

    port: int
    authority: str | None = None

    def environment(self):
        """The process's own, with REDIS_PORT and REDIS_CA, as the scenarios read them."""
        environment = {name: value for name, value in os.environ.items() if name != "REDIS_CA"}
        environment["REDIS_PORT"] = str(self.port)
        if self.authority:
            environment["REDIS_CA"] = self.authority
        return environment


def free_port():
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, condition, within_s=READY_WITHIN_S, every_s=0.02):
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {within_s} s: {what}")
        time.sleep(every_s)


def listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def log_tail(path, count):
    """The last `count` lines of a log; a line that is repeated stands once."""
    lines = []
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            if not lines or lines[-1] != line:
                lines.append(line)
    return "".join(lines[-count:])


class Daemon:
    """A process with its output in a file, ended by SIGTERM when its block is left."""

    def __init__(self, name, command, log_path):
        self.name = name
        self.log_path = log_path
        self._command = command
        self.start()

    def start(self):
        """Starts it, also once more after `kill`."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def logged(self):
        """All of its log."""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def stop(self):
        """It does nothing from here on, though its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self):
        """As by `kill -9`: it has no chance to write or close anything."""
        self._process.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self.end()

    def wait_listening(self, port):
        def ready():
            if self._process.poll() is not None:
                raise Failed(f"{self.name} ended with {self._process.returncode} at its start:\n{log_tail(self.log_path, 20)}")
            return listening(port)

        wait_until(f"{self.name} listens on 127.0.0.1:{port}", ready)

    def end(self):
        """Asks it to end, and kills it when it does not; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


MEMORY_ONLY = ("--appendonly", "no")
# What was acknowledged is on the disk.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Server(Daemon):
    """A redis-server of our own on a free port, in a private folder.

    With certificates it has a second port, for TLS: `place`, the only one that clients and respool are told. `port` stays
    plain and is what the runner itself uses.
    """

    def __init__(self, folder, certificates=None, options=MEMORY_ONLY):
        self.port = free_port()
        self.certificates = certificates
        self.place = Place(self.port)
        command = [versions.SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", *options]
        if certificates:
            self.place = Place(free_port(), certificates.authority)
            command += ["--tls-port", str(self.place.port), "--tls-auth-clients", "no"]
            command += ["--tls-ca-cert-file", certificates.authority]
            command += ["--tls-cert-file", certificates.certificate, "--tls-key-file", certificates.key]
        super().__init__("redis-server", command, os.path.join(folder, "redis-server.log"))
        self.wait_listening(self.place.port)

    def clean(self):
        """As new for the next scenario: data, scripts, functions, settings that scenarios change."""
        with ServerConnection(self.port) as server:
            server.call("FLUSHALL")
            server.call("SCRIPT", "FLUSH")
            try:
                server.call("FUNCTION", "FLUSH")
            except ServerError as error:
                # Redis 6.2 has none.
                if "unknown command" not in str(error):
                    raise
            server.call("CONFIG", "SET", "notify-keyspace-events", "")

    def answering(self):
        """The runner's connection to it once it answers PING, which it does not while it loads its data."""
        found = []

        def answers():
            try:
                connection = found[0] if found else ServerConnection(self.port)
                found[:] = [connection]
                return connection.call("PING") == "PONG"
            except (ConnectionRefusedError, ServerError):
                return False

        wait_until(f"redis-server answers on 127.0.0.1:{self.port} again", answers, every_s=0.002)
        return found[0]


class Respool(Daemon):
    """respool before the server, with a small pool; speaks TLS on both sides where the server does."""

    INSTANCE = "clients"

    def __init__(self, binary, server, folder):
        certificates = server.certificates
        self.place = Place(free_port(), server.place.authority)
        self._admin_port = free_port()
        config = os.path.join(folder, "respool.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(
                RESPOOL_CONFIG.format(
                    instance=self.INSTANCE,
                    port=self.place.port,
                    admin_port=self._admin_port,
                    server_port=server.place.port,
                    listener_tls=LISTENER_TLS.format(certificates=certificates) if certificates else "",
                    upstream_tls=UPSTREAM_TLS.format(certificates=certificates) if certificates else "",
                    max_connections=MAX_CONNECTIONS,
                    shared_connections=SHARED_CONNECTIONS,
                )
            )
        super().__init__("respool", [binary, "run", "--config", config], os.path.join(folder, "respool.log"))
        self.wait_listening(self.place.port)

    def connected_clients(self):
        """What its own metric says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        counts = re.findall(r"^respool_client_connections\{[^}]*\} (\d+)", text, re.MULTILINE)
        if not counts:
            raise Failed("respool's /metrics has no respool_client_connections")
        return sum(int(count) for count in counts)

    def end_clean(self, server):
        """Ends it once its clients are gone; what is then not as it should be, as a list of texts."""
        problems = [f"left behind: {text}" for text in unsettled(server.port, self.INSTANCE)]
        try:
            wait_until("respool's own count of clients is 0", lambda: self.connected_clients() == 0)
        except (Failed, OSError) as failure:
            problems.append(str(failure))
        code = self.end()
        return problems if code == 0 else [*problems, f"respool ended with {code}"]


@contextlib.contextmanager
def running(scenario, place, folder, log_path):
    """The scenario's process, started against `place`; ended with all that it started when the block is left."""
    environment = place.environment() | scenario.environment | {"CLIENTS_FOLDER": folder}
    with open(log_path, "wb") as log:
        # A group of its own, so that what it starts (workers of Celery, Sidekiq...) goes with it.
        process = subprocess.Popen(
            scenario.command,
            cwd=scenario.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_scenario(scenario, place, folder, log_path):
    """Runs it against `place`; its exit code (None: past the deadline) and its RESULT line, if it wrote one."""
    with running(scenario, place, folder, log_path) as process:
        try:
            code = process.wait(SCENARIO_DEADLINE_S)
        except subprocess.TimeoutExpired:
            code = None
    with open(log_path, encoding="utf-8", errors="replace") as log:
        results = [line[len("RESULT ") :] for line in log if line.startswith("RESULT ")]
    return code, json.loads(results[-1]) if results else None
