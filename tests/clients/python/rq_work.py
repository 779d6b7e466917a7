"""The jobs of rq_jobs.py: what its workers run."""

import redis

from harness import url

URL = url(1)
connection = redis.from_url(URL)


def double(n):
    """Counts how often it ran for `n`, so that a second run would show."""
    connection.hincrby("runs", str(n), 1)
    return 2 * n


def second_time():
    if connection.incr("tries") < 2:
        raise ValueError("as it should")
    return "done"


def after(text):
    return text + " and then this"
