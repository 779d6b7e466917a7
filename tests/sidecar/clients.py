"""An application's clients and a platform's prober around a sidecar: they count what is lost.

    clients.py run FILE    until SIGTERM; then writes what they saw to FILE as JSON
    clients.py check FILE  compares that with what the server at 127.0.0.1:6379 holds, prints a line, exits 1 if anything is lost

Counters: each INCR is answered with the number after the last one, or its connection ends. Messages: each subscriber sees each
number of its channel. Jobs: what was pushed is popped once, or still there. Prober: GET /livez each second, a second's patience;
three failures in a row are a restart by the platform.
"""

import json
import signal
import socket
import sys
import threading
import time

RESPOOL, ADMIN, SERVER = ("127.0.0.1", 6380), ("127.0.0.1", 9180), ("127.0.0.1", 6379)
COUNTERS, SUBSCRIBERS, CONSUMERS = 20, 3, 4
RUN = str(int(time.time()))

ending = threading.Event()
frozen = threading.Event()
seen = {"commands": 0, "unknown": 0, "wrong": [], "errors": [], "disconnects": 0, "messages": 0, "missed_messages": 0,
        "probes": 0, "failed_probes": 0, "restarts": 0, "slowest_ms": 0, "acknowledged": {}, "pushed": [], "popped": [],
        "unknown_pops": 0, "unknown_pushes": 0}
lock = threading.Lock()


def count(name, by=1):
    with lock:
        seen[name] += by


def note(name, what):
    with lock:
        if len(seen[name]) < 50:
            seen[name].append(what)


class Gone(Exception):
    """The connection has ended."""


class Connection:
    def __init__(self, address=RESPOOL, patience=120):
        self.socket = socket.create_connection(address, timeout=5)
        self.socket.settimeout(patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.waiting = b""

    def line(self):
        while b"\r\n" not in self.waiting:
            self.more()
        line, self.waiting = self.waiting.split(b"\r\n", 1)
        return line

    def more(self):
        try:
            piece = self.socket.recv(65536)
        except OSError as error:
            raise Gone(str(error)) from error
        if not piece:
            raise Gone("closed")
        self.waiting += piece

    def reply(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self.waiting) < size + 2:
                self.more()
            value, self.waiting = self.waiting[:size], self.waiting[size + 2:]
            return value
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        return line.decode(errors="replace")

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        data = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from error

    def ask(self, *words):
        self.send(*words)
        return self.reply()


def connected(ask):
    """Runs `ask(connection)` on a connection, and on a new one when it has ended, until the end."""
    while not ending.is_set():
        try:
            connection = Connection()
        except OSError:
            ending.wait(0.05)
            continue
        try:
            ask(connection)
        except Gone:
            if not ending.is_set():
                count("disconnects")
        finally:
            connection.socket.close()


def is_error(reply):
    return isinstance(reply, str) and reply.startswith("-")


def counter(number):
    key, acknowledged, unknown = f"sidecar:{RUN}:counter:{number}", 0, 0

    def ask(connection):
        nonlocal acknowledged, unknown
        while not ending.is_set():
            began = time.monotonic()
            try:
                reply = connection.ask("INCR", key)
            except Gone:
                unknown += 1
                count("unknown")
                raise
            took = (time.monotonic() - began) * 1000
            if is_error(reply):
                note("errors", reply)
            elif not acknowledged + 1 <= reply <= acknowledged + unknown + 1:
                note("wrong", f"{key}: {reply} after {acknowledged}, {unknown} unknown")
            else:
                acknowledged, unknown = reply, 0
            with lock:
                seen["commands"] += 1
                seen["acknowledged"][key] = acknowledged
                if not frozen.is_set():
                    seen["slowest_ms"] = max(seen["slowest_ms"], took)
            ending.wait(0.02)

    connected(ask)


def subscriber(number):
    def ask(connection):
        connection.ask("SUBSCRIBE", f"sidecar:{RUN}:news")
        last = None
        while not ending.is_set():
            value = int(connection.reply()[2])
            if last is not None and value != last + 1:
                count("missed_messages", abs(value - last - 1) or 1)
            last = value
            count("messages")

    connected(ask)


def publisher():
    # Only what was answered is numbered on: a publish whose end nobody knows is sent again under its number by nobody.
    number = 0

    def ask(connection):
        nonlocal number
        while not ending.is_set():
            number += 1
            reply = connection.ask("PUBLISH", f"sidecar:{RUN}:news", number)
            if is_error(reply):
                note("errors", reply)
                number -= 1
            ending.wait(0.02)

    connected(ask)


def producer():
    number = 0

    def ask(connection):
        nonlocal number
        while not ending.is_set():
            number += 1
            try:
                reply = connection.ask("RPUSH", f"sidecar:{RUN}:jobs", number)
            except Gone:
                count("unknown_pushes")
                raise
            if is_error(reply):
                note("errors", reply)
            else:
                with lock:
                    seen["pushed"].append(number)
            ending.wait(0.02)

    connected(ask)


def consumer(number):
    def ask(connection):
        while not ending.is_set():
            try:
                reply = connection.ask("BLPOP", f"sidecar:{RUN}:jobs", 1)
            except Gone:
                count("unknown_pops")
                raise
            if is_error(reply):
                note("errors", reply)
            elif reply is not None:
                with lock:
                    seen["popped"].append(int(reply[1]))

    connected(ask)


def prober():
    failures, has_answered = 0, False
    while not ending.wait(1):
        if frozen.is_set():
            failures = 0
            continue
        good = False
        try:
            with socket.create_connection(ADMIN, timeout=1) as probe:
                probe.settimeout(1)
                probe.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                good = b" 200 " in probe.recv(4096)
        except OSError:
            pass
        if frozen.is_set() or (not has_answered and not good):
            continue
        has_answered = True
        count("probes")
        failures = 0 if good else failures + 1
        if not good:
            count("failed_probes")
        if failures == 3:
            count("restarts")


def run(file):
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.signal(signal.SIGUSR1, lambda *_: frozen.set())
    signal.signal(signal.SIGUSR2, lambda *_: frozen.clear())
    stories = [lambda n=n: counter(n) for n in range(COUNTERS)] + [lambda n=n: subscriber(n) for n in range(SUBSCRIBERS)]
    stories += [lambda n=n: consumer(n) for n in range(CONSUMERS)] + [publisher, producer, prober]
    threads = [threading.Thread(target=story, daemon=True) for story in stories]
    for thread in threads:
        thread.start()
    while not ending.wait(0.2):
        pass
    # Whoever waits for a message or a job is left where it is.
    for thread in threads:
        thread.join(2)
    with lock, open(file, "w", encoding="utf-8") as out:
        json.dump(seen, out)


def check(file):
    with open(file, encoding="utf-8") as saved:
        saw = json.load(saved)
    server = Connection(SERVER)
    ran_unanswered = 0
    for key, acknowledged in saw["acknowledged"].items():
        ran_unanswered += int(server.ask("GET", key) or 0) - acknowledged
    any_key = next(iter(saw["acknowledged"]), ":")
    left = {int(value) for value in server.ask("LRANGE", any_key.split(":counter:")[0] + ":jobs", 0, -1)}
    popped = saw["popped"]
    lost_jobs = len(set(saw["pushed"]) - set(popped) - left)
    twice = len(popped) - len(set(popped))
    print(f"{saw['commands']} commands, {len(saw['wrong'])} wrong, {ran_unanswered} ran and were not answered "
          f"({saw['unknown']} without an answer), {len(saw['errors'])} errors, {saw['disconnects']} disconnects; "
          f"{saw['messages']} messages, {saw['missed_messages']} missed; {len(saw['pushed'])} jobs, {lost_jobs} lost, "
          f"{twice} twice; slowest {saw['slowest_ms']:.0f} ms; "
          f"{saw['probes']} probes, {saw['failed_probes']} failed, {saw['restarts']} restarts")
    for line in saw["wrong"][:5] + sorted(set(saw["errors"]))[:5]:
        print(f"    {line}")
    is_lost = saw["wrong"] or ran_unanswered or saw["missed_messages"] or lost_jobs or twice or saw["restarts"]
    sys.exit(1 if is_lost else 0)


if __name__ == "__main__":
    {"run": run, "check": check}[sys.argv[1]](sys.argv[2])
