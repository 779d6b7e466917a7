"""The list of scenarios: what each is called, which library it shows, and the command that runs it."""

import os
from dataclasses import dataclass, field

import versions
from versions import CLIENTS

# Where scripts/clients puts what it installs and builds.
CACHE = os.environ.get("CLIENTS_CACHE", "")

NODE = os.path.join(CLIENTS, "node")
PYTHON = os.path.join(CLIENTS, "python")
RUBY = os.path.join(CLIENTS, "ruby")


@dataclass(frozen=True)
class Scenario:
    """One process (and what it starts) that uses one library against one place (REDIS_PORT, REDIS_CA)."""

    name: str
    library: str
    shows: str
    command: list
    cwd: str
    environment: dict = field(default_factory=dict)


def _node(name, library, shows, script, *arguments):
    return Scenario(name, library, shows, ["node", script, *arguments], NODE)


def _python(name, library, shows, script, *arguments, venv="python"):
    interpreter = os.path.join(CACHE, venv, "bin", "python")
    return Scenario(name, library, shows, [interpreter, script, *arguments], PYTHON)


def _rust(name, library, shows, *arguments):
    return Scenario(name, library, shows, [os.path.join(CACHE, "rust", "debug", "clients"), *arguments], CLIENTS)


def _ioredis():
    shows = "commands, pipelines, offline queue, Lua, pub/sub, MULTI, WATCH, blocking, streams"
    five, six = f"ioredis {versions.node('ioredis5')}", f"ioredis {versions.node('ioredis6')}"
    yield _node("ioredis5", five, shows, "ioredis.mjs", "ioredis5", "2")
    yield _node("ioredis6-resp2", f"{six}, RESP2", shows, "ioredis.mjs", "ioredis6", "2")
    yield _node("ioredis6-resp3", f"{six}, RESP3", shows, "ioredis.mjs", "ioredis6", "3")


def _node_redis():
    shows = "commands, pipelines, pools, scripts, pub/sub, MULTI, WATCH, blocking, streams"
    six = f"node-redis {versions.node('redis6')}"
    yield _node("node-redis4", f"node-redis {versions.node('redis4')}", shows, "node-redis.mjs", "redis4", "2")
    yield _node("node-redis6-resp2", f"{six}, RESP2", shows, "node-redis.mjs", "redis6", "2")
    yield _node("node-redis6-resp3", f"{six}, RESP3", shows + ", client-side caching", "node-redis.mjs", "redis6", "3")


def _redis_py():
    shows = "commands, pipelines, locks, pub/sub, WATCH retries, blocking, streams"
    eight = f"redis-py {versions.python('redis')}"
    five = f"redis-py {versions.python('redis', 'requirements-redis5.txt')}"
    yield _python("redis-py8-resp2", f"{eight}, RESP2", shows, "sync_client.py", "2")
    yield _python("redis-py8-resp3", f"{eight}, RESP3", shows + ", client-side caching", "sync_client.py", "3")
    yield _python("redis-py8-asyncio-resp2", f"{eight}, asyncio, RESP2", shows, "asyncio_client.py", "2")
    yield _python("redis-py8-asyncio-resp3", f"{eight}, asyncio, RESP3", shows, "asyncio_client.py", "3")
    yield _python("redis-py5-resp2", f"{five}, RESP2", shows, "sync_client.py", "2", venv="python-redis5")
    yield _python("redis-py5-resp3", f"{five}, RESP3", shows, "sync_client.py", "3", venv="python-redis5")


def _rust_clients():
    shows = "commands, pipelines, pub/sub, MULTI, WATCH, blocking, scripts"
    redis, fred = f"redis-rs {versions.rust('redis')}", f"fred {versions.rust('fred')}"
    for name, library in (("redis-rs", redis), ("fred", fred)):
        for protocol in ("2", "3"):
            yield _rust(f"{name}-resp{protocol}", f"{library}, RESP{protocol}", shows, name, protocol)


def _queues():
    six = f"BullMQ {versions.node('bullmq')}"
    five = f"BullMQ {versions.node('bullmq5')}"
    twenty, kinds = "20 workers, 500 jobs", "delayed, repeatable, flows, events, retries"
    for name, library, package in (("bullmq6", six, "bullmq"), ("bullmq5", five, "bullmq5")):
        yield _node(f"{name}-20-workers", library, twenty, "bullmq-workers.mjs", package)
        yield _node(f"{name}-kinds", library, kinds, "bullmq-kinds.mjs", package)
        yield _node(f"{name}-30-queues", library, "30 queues with 5 workers each", "bullmq-queues.mjs", package)
    yield _python("celery", f"Celery {versions.python('celery')}", "200 tasks with results, chords", "celery_tasks.py")
    yield _python("rq", f"RQ {versions.python('rq')}", "2 workers, 200 jobs", "rq_jobs.py")
    sidekiq = f"Sidekiq {versions.ruby('sidekiq')}"
    yield Scenario("sidekiq", sidekiq, "10 threads, 200 jobs", ["ruby", "sidekiq_jobs.rb"], RUBY)


def _socket_io():
    server = f"socket.io {versions.node('socket.io')}"
    shows = "2 servers, rooms and broadcasts across them"
    adapter = versions.node("@socket.io/redis-adapter")
    streams = versions.node("@socket.io/redis-streams-adapter")
    yield _node("socketio-pubsub", f"{server}, redis-adapter {adapter}", shows, "socketio.mjs", "pubsub")
    yield _node("socketio-sharded", f"{server}, redis-adapter {adapter}, sharded", shows, "socketio.mjs", "sharded")
    yield _node("socketio-streams", f"{server}, redis-streams-adapter {streams}", shows, "socketio.mjs", "streams")


def _locks():
    yield _node("redlock", f"redlock {versions.node('redlock')}", "mutual exclusion of 20 holders", "redlock.mjs")


def every_scenario():
    """All of them, in the order in which they run."""
    parts = (_ioredis, _node_redis, _redis_py, _rust_clients, _queues, _socket_io, _locks)
    return [scenario for part in parts for scenario in part()]
