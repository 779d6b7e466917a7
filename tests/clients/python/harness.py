"""What the Python scenarios share: where the server is, cases that run one after the other, and waiting for conditions.

REDIS_PORT tells the port; with REDIS_CA (a file of PEM) it speaks TLS, verified against that authority alone.

A scenario is a list of named cases. Each must say what it expects by `expect`; the runner compares the names of the cases
that passed directly and through respool, so that none can fall out unnoticed.
"""

import asyncio
import inspect
import json
import os
import sys
import threading
import time
import traceback
from urllib.parse import quote

_HOST = "127.0.0.1"
_PORT = int(os.environ["REDIS_PORT"])
_AUTHORITY = os.environ.get("REDIS_CA")
CONDITION_DEADLINE_S = 30

# Where the server is, as redis-py takes it.
SERVER = {"host": _HOST, "port": _PORT}
if _AUTHORITY:
    # Version 8 compares the name in the certificate by default; version 5 has to be told.
    SERVER |= {"ssl": True, "ssl_ca_certs": _AUTHORITY, "ssl_check_hostname": True}


def url(database):
    """The same as Celery, RQ and `redis.from_url` take it."""
    if not _AUTHORITY:
        return f"redis://{_HOST}:{_PORT}/{database}"
    # Celery insists on being told whether to verify.
    return f"rediss://{_HOST}:{_PORT}/{database}?ssl_cert_reqs=required&ssl_ca_certs={quote(_AUTHORITY, safe='')}"


def expect(actual, expected):
    """As `assert actual == expected`, which `python -O` would drop."""
    if actual != expected:
        raise AssertionError(f"got {actual!r}, expected {expected!r}")


def until(what, condition):
    """Waits until the condition is true; fails, saying `what`, when it does not become so."""
    deadline = time.monotonic() + CONDITION_DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {CONDITION_DEADLINE_S} s: {what}")
        time.sleep(0.005)


async def until_async(what, condition):
    """As `until`, for a condition that is a coroutine function."""
    deadline = time.monotonic() + CONDITION_DEADLINE_S
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {CONDITION_DEADLINE_S} s: {what}")
        await asyncio.sleep(0.005)


def in_threads(count, work):
    """Runs `work(n)` for each n below `count` at the same time; fails when one does."""
    failures = []

    def guarded(n):
        try:
            work(n)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def run(cases, *workers):
    """Runs the cases in order, ends the workers (processes) and then this process: with 0 when all passed.

    A failed case does not stop the following ones.
    """
    passed, failed, seconds = [], [], {}
    for case in cases:
        name = case.__name__
        started = time.monotonic()
        try:
            if inspect.iscoroutinefunction(case):
                asyncio.run(case())
            else:
                case()
            passed.append(name)
        except Exception:
            failed.append(name)
            print(f"FAILED {name}:", file=sys.stderr)
            traceback.print_exc()
        seconds[name] = time.monotonic() - started
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait(CONDITION_DEADLINE_S)
    print("RESULT " + json.dumps({"passed": passed, "failed": failed, "seconds": seconds}), flush=True)
    # Not sys.exit: a thread that a failed case left behind must not hold the process.
    os._exit(0 if passed and not failed else 1)
