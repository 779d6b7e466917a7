"""redis-py clients at a server that is killed and comes back: `python restart_clients.py BUSY IDLE`, started by
runner/restart.py, which tells what is said between the two.

Synchronous ones, each busy one in a thread of its own, with the library's defaults but for its retries: whatever it
repeats would be counted against respool.
"""

import collections
import json
import os
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from harness import SERVER, until

BUSY, IDLE = (int(count) for count in sys.argv[1:3])
PAUSE_S = 0.02
WARM_ROUNDS = 5
SUCCESSES_TO_BE_SERVED = 10
# Outcomes of a command without a reply.
NOT_RUN, UNKNOWN = object(), object()

errors = collections.Counter()
stopping = threading.Event()


def connect():
    return redis.Redis(**SERVER, decode_responses=True, retry=Retry(NoBackoff(), 0))


class BusyClient(threading.Thread):
    """One client that goes through rounds of commands, one at a time, and knows what each reply may be."""

    def __init__(self, n):
        super().__init__(daemon=True)
        self.own = f"restart:own:redis-py:{n}"
        self.value = f"restart:value:redis-py:{n}"
        self.client = connect()
        self.rounds = 0
        self.successes = []  # when, in epoch ms
        self.counters = {name: {"acknowledged": [], "unknown": 0} for name in ("own", "common")}
        # What the own counter may stand at, and the own value be: more than one only after an unknown outcome.
        self.low = self.high = 0
        self.values = {None}
        self.wrong = []

    def attempt(self, *words):
        """The reply, NOT_RUN or UNKNOWN."""
        try:
            reply = self.client.execute_command(*words)
        except redis.RedisError as error:
            errors[f"{type(error).__name__}: {error}"] += 1
            # The first is Redis' own LOADING, which says that the command did not run; the second comes before it is sent.
            return NOT_RUN if isinstance(error, BusyLoadingError) or " connecting to " in str(error) else UNKNOWN
        self.successes.append(time.time() * 1000)
        return reply

    def expect(self, what, reply, right):
        if not right:
            self.wrong.append(f"{what} = {reply!r} in round {self.rounds}")

    def increment(self, counter, key):
        reply = self.attempt("INCR", key)
        if reply is UNKNOWN:
            counter["unknown"] += 1
        elif reply is not NOT_RUN:
            counter["acknowledged"].append(reply)
        return reply

    def count_own(self):
        reply = self.increment(self.counters["own"], self.own)
        if reply is UNKNOWN:
            self.high += 1
        elif reply is not NOT_RUN:
            self.expect(f"INCR, {self.low} to {self.high} before,", reply, self.low < reply <= self.high + 1)
            self.low = self.high = reply

    def read_own(self):
        reply = self.attempt("GET", self.own)
        if reply is UNKNOWN or reply is NOT_RUN:
            return
        count = int(reply or 0)
        self.expect(f"GET of {self.low} to {self.high}", reply, self.low <= count <= self.high)
        self.low = self.high = count

    def write_and_read_value(self):
        unique = f"{self.value} in round {self.rounds}"
        reply = self.attempt("SET", self.value, unique)
        if reply is UNKNOWN:
            self.values.add(unique)
        elif reply is not NOT_RUN:
            self.expect("SET", reply, reply is True)
            self.values = {unique}
        reply = self.attempt("GET", self.value)
        if reply is UNKNOWN or reply is NOT_RUN:
            return
        self.expect(f"GET of {self.values}", reply, reply in self.values)
        self.values = {reply}

    def run(self):
        try:
            while not stopping.is_set():
                self.round()
                stopping.wait(PAUSE_S)
        except Exception as failure:
            # A thread's own exception would only be printed.
            self.wrong.append(f"ended in round {self.rounds} by {failure!r}")

    def round(self):
        self.count_own()
        self.increment(self.counters["common"], "restart:common")
        self.write_and_read_value()
        self.read_own()
        self.rounds += 1

    def served(self, back):
        return self.successes[-SUCCESSES_TO_BE_SERVED] >= back

    def result(self, back):
        first = next(moment for moment in self.successes if moment >= back)
        return {"key": self.own, **self.counters, "wrong": self.wrong, "back_ms": first - back}


class IdleClient:
    """One that says nothing, and only looks whether it is still the same connection at the end."""

    def __init__(self, n):
        self.name = f"idle {n}"
        self.client = connect()
        self.before = self.identity()

    def identity(self):
        """The library's connection, its socket and its number at the server; the library replaces a lost one by itself."""
        number = self.client.client_id()
        connection = self.client.connection_pool.get_connection()
        local_port = connection._sock.getsockname()[1]
        self.client.connection_pool.release(connection)
        return {"connection": id(connection), "local port": local_port, "CLIENT ID": number}

    def lost(self):
        """What is not as before, as a text; None when all is."""
        try:
            now = self.identity()
        except redis.RedisError as error:
            return f"{self.name}: {type(error).__name__}: {error}"
        changed = [name for name, value in now.items() if value != self.before[name]]
        return f"{self.name}: another {' and '.join(changed)}" if changed else None


def told(word):
    line = sys.stdin.readline()
    if not line.startswith(word):
        raise AssertionError(f"expected {word}, got {line!r}")
    return line[len(word) :]


def main():
    idle = [IdleClient(n) for n in range(IDLE)]
    busy = [BusyClient(n) for n in range(BUSY)]
    for client in busy:
        client.start()
    until("all clients are warm", lambda: all(client.rounds >= WARM_ROUNDS for client in busy))
    print("READY", flush=True)
    back = float(told("BACK "))
    until("all clients are served", lambda: all(client.served(back) for client in busy))
    print("SERVED", flush=True)
    told("STOP")
    stopping.set()
    for client in busy:
        client.join()
    result = {
        "busy": [client.result(back) for client in busy],
        "disconnected": [loss for client in idle if (loss := client.lost())],
        "errors": errors,
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        # Not by returning: a thread that waits must not hold the process.
        sys.stdout.flush()
        if failure := sys.exc_info()[1]:
            print(f"FAILED: {failure!r}", file=sys.stderr, flush=True)
        os._exit(1 if failure else 0)
