"""RQ: two workers and 200 jobs, failures with retries, dependent jobs."""

import subprocess
import sys

from rq import Queue, Retry

from harness import expect, run, until
from rq_work import URL, after, connection, double, second_time

queue = Queue("clients", connection=connection)


def finished(jobs):
    return all(job.get_status(refresh=True) == "finished" for job in jobs)


def two_hundred_jobs():
    jobs = [queue.enqueue(double, n) for n in range(200)]
    until("all jobs have finished", lambda: finished(jobs))
    expect([job.return_value() for job in jobs], [2 * n for n in range(200)])
    expect(connection.hgetall("runs"), {str(n).encode(): b"1" for n in range(200)})
    expect(queue.count, 0)


def retries_and_dependencies():
    retried = queue.enqueue(second_time, retry=Retry(max=2))
    dependent = queue.enqueue(after, "this", depends_on=retried)
    until("both have finished", lambda: finished([retried, dependent]))
    expect(retried.return_value(), "done")
    expect(dependent.return_value(), "this and then this")
    expect(connection.get("tries"), b"2")


if __name__ == "__main__":
    command = [sys.executable, "-m", "rq.cli", "worker", "--url", URL, "--worker-class", "rq.worker.SimpleWorker", "-q", "clients"]
    workers = [subprocess.Popen(command) for _ in range(2)]
    run([two_hundred_jobs, retries_and_dependencies], *workers)
