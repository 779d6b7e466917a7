"""The processes of a run: a private server, respool before it, and the scenarios' own."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request

from server_connection import ServerConnection

READY_WITHIN_S = 20
END_WITHIN_S = 20
SCENARIO_DEADLINE_S = 240

RESPOOL_CONFIG = """\
instance = "{instance}"

[[listener]]
address = "127.0.0.1:{port}"

[upstream]
address = "127.0.0.1:{server_port}"
max_connections = {max_connections}
shared_connections = {shared_connections}

[admin]
address = "127.0.0.1:{admin_port}"
"""


class Failed(Exception):
    """A process did not do what the run needs; the text says which and why."""


def free_port():
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, condition, within_s=READY_WITHIN_S):
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {within_s} s: {what}")
        time.sleep(0.02)


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
        with open(log_path, "wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

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


class Server(Daemon):
    """A redis-server of our own on a free port, without persistence, in a private folder."""

    def __init__(self, folder):
        self.port = free_port()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        super().__init__("redis-server", command, os.path.join(folder, "redis-server.log"))
        self.wait_listening(self.port)

    def clean(self):
        """As new for the next scenario: data, scripts, functions, settings that scenarios change."""
        with ServerConnection(self.port) as server:
            server.call("FLUSHALL")
            server.call("SCRIPT", "FLUSH")
            server.call("FUNCTION", "FLUSH")
            server.call("CONFIG", "SET", "notify-keyspace-events", "")

    def limit_connections(self, count):
        """The server itself refuses, and counts, whatever comes past `count` connections."""
        with ServerConnection(self.port) as server:
            server.call("CONFIG", "SET", "maxclients", count)


class Respool(Daemon):
    """respool before the server, with a pool of `max_connections`."""

    INSTANCE = "clients"

    def __init__(self, binary, server, folder, max_connections, shared_connections):
        self.port = free_port()
        self._admin_port = free_port()
        config = os.path.join(folder, "respool.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(
                RESPOOL_CONFIG.format(
                    instance=self.INSTANCE,
                    port=self.port,
                    admin_port=self._admin_port,
                    server_port=server.port,
                    max_connections=max_connections,
                    shared_connections=shared_connections,
                )
            )
        super().__init__("respool", [binary, "run", "--config", config], os.path.join(folder, "respool.log"))
        self.wait_listening(self.port)

    def connected_clients(self):
        """What its own metric says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        counts = re.findall(r"^respool_client_connections\{[^}]*\} (\d+)", text, re.MULTILINE)
        if not counts:
            raise Failed("respool's /metrics has no respool_client_connections")
        return sum(int(count) for count in counts)


def run_scenario(scenario, port, folder, log_path):
    """Runs it against `port`; its exit code (None: past the deadline) and its RESULT line, if it wrote one."""
    environment = dict(os.environ, **scenario.environment, REDIS_PORT=str(port), CLIENTS_FOLDER=folder)
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
            code = process.wait(SCENARIO_DEADLINE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    with open(log_path, encoding="utf-8", errors="replace") as log:
        results = [line[len("RESULT ") :] for line in log if line.startswith("RESULT ")]
    return code, json.loads(results[-1]) if results else None
