"""Celery with Redis as broker and result backend: a worker of four processes, tasks with results, retries, groups, chords."""

import subprocess
import sys

import redis
from celery import chord, group
from celery.exceptions import TimeoutError as ResultTimeout

from celery_work import add_up, app, double, fail, third_time
from harness import SERVER, expect, run, until

RESULT_WITHIN_S = 60


def worker_answers():
    until("the worker answers a ping", lambda: app.control.ping(timeout=1))


def two_hundred_tasks():
    results = [double.delay(n) for n in range(200)]
    expect([result.get(timeout=RESULT_WITHIN_S) for result in results], [2 * n for n in range(200)])
    with redis.Redis(**SERVER, db=3) as counts:
        expect(counts.hgetall("runs"), {str(n).encode(): b"1" for n in range(200)})


def groups_and_chords():
    expect(group(add_up.s([n, 1]) for n in range(20)).apply_async().get(timeout=RESULT_WITHIN_S), [n + 1 for n in range(20)])
    expect(chord((add_up.s([n]) for n in range(20)), add_up.s()).apply_async().get(timeout=RESULT_WITHIN_S), sum(range(20)))


def retries_failures_and_countdowns():
    expect(third_time.delay().get(timeout=RESULT_WITHIN_S), 2)
    failed = fail.delay()
    try:
        failed.get(timeout=RESULT_WITHIN_S)
    except ValueError as error:
        expect(str(error), "as it should")
    else:
        raise AssertionError("the failure did not come back")
    expect(add_up.apply_async([[1, 2]], countdown=0.2).get(timeout=RESULT_WITHIN_S), 3)


def revoked_task():
    later = add_up.apply_async([[1]], countdown=3600)
    until("the worker holds it", lambda: any((app.control.inspect(timeout=1).scheduled() or {}).values()))
    later.revoke()
    until("it is revoked", lambda: any((app.control.inspect(timeout=1).revoked() or {}).values()))
    try:
        later.get(timeout=0.1)
    except ResultTimeout:
        return
    except Exception as error:
        expect(type(error).__name__, "TaskRevokedError")


if __name__ == "__main__":
    command = [sys.executable, "-m", "celery", "-A", "celery_work", "worker", "--concurrency=4"]
    worker = subprocess.Popen([*command, "--loglevel=WARNING"])
    run([worker_answers, two_hundred_tasks, groups_and_chords, retries_failures_and_countdowns, revoked_task], worker)
