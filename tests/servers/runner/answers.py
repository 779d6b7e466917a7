"""What the servers answer to the same requests, where that differs: the last answer to each list of commands."""

import os
import re
import socket
import subprocess
import tempfile
import time

import report

SHOWN_CHARACTERS = 160
PATIENCE_S = 20

# What is asked, and the commands of which the last one's answer is shown. A text in bytes is sent as it stands.
PROBES = [
    ("`READONLY`", ["READONLY"]),
    ("`GET` without arguments, before AUTH", ["CONFIG SET requirepass x", "RECONNECT", "GET"]),
    ("`NOSUCH a`", ["NOSUCH a"]),
    ("`GET` without arguments", ["GET"]),
    ("`CLIENT NOSUCH`", ["CLIENT NOSUCH"]),
    ("`CLIENT ID x`", ["CLIENT ID x"]),
    ("`CLIENT LIST ID abc`", ["CLIENT LIST ID abc"]),
    ("`CLIENT LIST ID 0`", ["CLIENT LIST ID 0"]),
    ("`CLIENT KILL ID abc`", ["CLIENT KILL ID abc"]),
    ("`CLIENT NO-EVICT ON`", ["CLIENT NO-EVICT ON"]),
    ("`SET k v` of a user who may not", ["ACL SETUSER u on >p ~* +@all -set", "AUTH u p", "SET k v"]),
    ("`CLIENT NOSUCH` of a user who may not", ["ACL SETUSER u on >p ~* +@all -client", "AUTH u p", "CLIENT NOSUCH"]),
    ("`WAIT 0 0` inside `MULTI`", ["MULTI", "WAIT 0 0"]),
    ("`MONITOR`, then `GET k`", ["MONITOR", "GET k"]),
    ("`SCRIPT DEBUG YES`", ["SCRIPT DEBUG YES"]),
    ("`FUNCTION LIST`", ["FUNCTION LIST"]),
    ("`SPUBLISH c m`", ["SPUBLISH c m"]),
    ("an argument not followed by CRLF", [b"*1\r\n$4\r\nPINGxx"]),
    ("`HELLO 9`", ["HELLO 9"]),
]


class Connection:
    """One connection, which reads one reply at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.file = self.socket.makefile("rb")

    def ask(self, request):
        self.socket.sendall(request if isinstance(request, bytes) else request.encode() + b"\r\n")
        return self.reply()

    def reply(self):
        line = self.file.readline().rstrip(b"\r\n").decode(errors="replace")
        kind, rest = line[:1], line[1:]
        if kind == "$":
            return "null" if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind in ("*", "~", "%"):
            count = int(rest) * (2 if kind == "%" else 1)
            return [self.reply() for _ in range(max(count, 0))]
        if kind == ":":
            return int(rest)
        return rest if kind else "(the connection ends)"


class Running:
    """A private server that ends with the block."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder.name]
        self.child = subprocess.Popen([self.server.program, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                Connection(self.port)
                return self.port
            except OSError:
                if time.monotonic() > deadline or self.child.poll() is not None:
                    raise SystemExit(f"{self.server} does not start") from None
                time.sleep(0.02)

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.folder.cleanup()


def answer(server, requests):
    with Running(server) as port:
        connection = Connection(port)
        for request in requests:
            if request == "RECONNECT":
                connection = Connection(port)
            else:
                said = connection.ask(request)
    return str(said)[:SHOWN_CHARACTERS] if said != [] else "an empty list"


def commands_of(server):
    """The names of its commands."""
    with Running(server) as port:
        return {entry[0].lower() for entry in Connection(port).ask("COMMAND")}


def fields_of(server):
    """The fields of CLIENT LIST, in their order."""
    with Running(server) as port:
        line = Connection(port).ask("CLIENT LIST").split("\n")[0]
    return re.findall(r"(\S+?)=", line)


def differences(servers):
    """As Markdown: what differs, the servers' own commands, and the fields of CLIENT LIST."""
    rows = []
    for asked, requests in PROBES:
        by_answer = {}
        for server in servers:
            by_answer.setdefault(answer(server, requests), []).append(server.short)
        for said, names in by_answer.items():
            rows.append([report.escape(asked), ", ".join(names), f"`{report.escape(said)}`"])
    texts = report.table(["asked", "of", "answered"], rows)
    all_commands = {server: commands_of(server) for server in servers}
    everywhere = set.intersection(*all_commands.values())
    rows = [
        [server.short, str(len(names)), " ".join(report.code(name) for name in sorted(names - everywhere))]
        for server, names in all_commands.items()
    ]
    commands = report.table(["server", "commands", "those that not every server has"], rows)
    fields = report.table(
        ["server", "fields of `CLIENT LIST`"], [[server.short, " ".join(fields_of(server))] for server in servers]
    )
    return "\n\n".join([texts, commands, fields])
