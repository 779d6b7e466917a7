"""The Celery application of celery_tasks.py: what its worker runs."""

import redis
from celery import Celery

from harness import SERVER, url

app = Celery("celery_work", broker=url(1), backend=url(2))


@app.task
def double(n):
    """Counts how often it ran for `n`, so that a second run would show."""
    with redis.Redis(**SERVER, db=3) as counts:
        counts.hincrby("runs", str(n), 1)
    return 2 * n


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)
    return self.request.retries


@app.task
def fail():
    raise ValueError("as it should")


@app.task
def add_up(values):
    return sum(values)
