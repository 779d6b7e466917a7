"""redis-py, the synchronous client: `python sync_client.py PROTOCOL`. Runs with redis-py 5 and 8."""

import sys

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from redis.exceptions import LockError, ResponseError, WatchError

from harness import SERVER, expect, in_threads, run, until, url

PROTOCOL = int(sys.argv[1])
MAJOR = int(redis.__version__.split(".")[0])


def connect(**options):
    return redis.Redis(**SERVER, protocol=PROTOCOL, decode_responses=True, **options)


def library_defaults():
    """Nothing but host and port: whatever protocol and replies the library chooses."""
    with redis.Redis(**SERVER) as client:
        expect(client.set("defaults:key", "value"), True)
        expect(client.get("defaults:key"), b"value")
        expect(client.ping(), True)
    with redis.from_url(url(4)) as client:
        expect(client.get("defaults:key"), None)


def plain_commands():
    with connect() as client:
        for n in range(200):
            expect(client.set(f"plain:{n}", f"value {n}"), True)
            expect(client.get(f"plain:{n}"), f"value {n}")
        large = "x" * 1_500_000
        client.set("plain:large", large)
        expect(client.get("plain:large") == large, True)
        client.set("plain:text", "gr\u00fc\u00dfe \U0001f600")
        expect(client.get("plain:text"), "gr\u00fc\u00dfe \U0001f600")
        expect(client.get("plain:none"), None)
        client.hset("plain:hash", mapping={"a": "1", "b": "2"})
        expect(client.hgetall("plain:hash"), {"a": "1", "b": "2"})
        client.zadd("plain:zset", {"one": 1.5})
        expect(client.zscore("plain:zset", "one"), 1.5)
        try:
            client.incr("plain:text")
        except ResponseError as error:
            expect("not an integer" in str(error), True)
        else:
            raise AssertionError("INCR of a text went through")


def pipelines():
    with connect() as client:
        plain = client.pipeline(transaction=False)
        for n in range(500):
            plain.set(f"pipeline:{n}", n).get(f"pipeline:{n}")
        expect(plain.execute(), [reply for n in range(500) for reply in (True, str(n))])
        replies = client.pipeline(transaction=False).lpush("pipeline:0", "x").get("pipeline:7").execute(raise_on_error=False)
        expect(type(replies[0]), ResponseError)
        expect(replies[1], "7")
        expect(client.pipeline().incr("multi:n").incr("multi:n").get("multi:n").execute(), [1, 2, "2"])
        aborted = client.pipeline().execute_command("SET", "multi:n").incr("multi:n")
        try:
            aborted.execute()
        except redis.RedisError:
            expect(client.get("multi:n"), "2")
        else:
            raise AssertionError("a transaction with a malformed command went through")


def watch_retries():
    conflicts = []

    def increment(pipe):
        value = int(pipe.get("watch:counter") or 0)
        pipe.multi()
        pipe.set("watch:counter", value + 1)

    def worker(n):
        with connect() as client:
            for _ in range(20):
                if n % 2:
                    client.transaction(increment, "watch:counter")
                    continue
                with client.pipeline() as pipe:
                    while True:
                        try:
                            pipe.watch("watch:counter")
                            increment(pipe)
                            pipe.execute()
                            break
                        except WatchError:
                            conflicts.append(n)

    in_threads(6, worker)
    with connect() as client:
        expect(client.get("watch:counter"), "120")


def watch_conflict():
    """The one certain conflict: a key changed by somebody else between WATCH and EXEC."""
    with connect() as client, connect() as other, client.pipeline() as pipe:
        client.set("conflict:key", "0")
        pipe.watch("conflict:key")
        other.set("conflict:key", "changed")
        pipe.multi()
        pipe.set("conflict:key", "lost")
        try:
            pipe.execute()
        except WatchError:
            expect(client.get("conflict:key"), "changed")
        else:
            raise AssertionError("EXEC ran though the watched key had changed")
        pipe.reset()
        expect(client.transaction(lambda p: (p.multi(), p.get("conflict:key")), "conflict:key"), ["changed"])


def locks():
    holders, most = [], []

    def worker(n):
        with connect() as client:
            for _ in range(5):
                with client.lock("lock:one", timeout=30, sleep=0.005):
                    holders.append(n)
                    most.append(len(holders))
                    value = int(client.get("lock:guarded") or 0)
                    client.set("lock:guarded", value + 1)
                    holders.remove(n)

    in_threads(8, worker)
    expect(max(most), 1)
    with connect() as client:
        expect(client.get("lock:guarded"), "40")
        lock = client.lock("lock:two", timeout=10)
        expect(lock.acquire(), True)
        expect(client.lock("lock:two").acquire(blocking=False), False)
        expect(lock.extend(20), True)
        expect(10 < client.ttl("lock:two") <= 30, True)
        expect(lock.owned(), True)
        lock.release()
        expect(client.exists("lock:two"), 0)
        try:
            lock.release()
        except LockError:
            pass
        else:
            raise AssertionError("a lock was released twice")


def publish_and_subscribe():
    with connect() as publisher, connect() as client:
        subscriber = client.pubsub(ignore_subscribe_messages=True)
        subscriber.subscribe("news", "sport")
        subscriber.psubscribe("new?")
        until("subscribed", lambda: publisher.pubsub_numsub("news", "sport") == [("news", 1), ("sport", 1)])
        until("the pattern too", lambda: publisher.pubsub_numpat() == 1)
        for n in range(200):
            publisher.publish("news", f"item {n}")
        received = {"message": [], "pmessage": []}

        def receive():
            # Reads confirmations too, which are no messages.
            while message := subscriber.get_message(timeout=0.05):
                received[message["type"]].append((message["channel"], message["data"]))

        def both(count):
            receive()
            return len(received["message"]) >= count and len(received["pmessage"]) >= 200

        until("all messages", lambda: both(200))
        expect(received["message"], [("news", f"item {n}") for n in range(200)])
        expect(received["pmessage"], received["message"])
        subscriber.unsubscribe("news")
        subscriber.punsubscribe()
        until("unsubscribed", lambda: both(200) and publisher.pubsub_numsub("news") == [("news", 0)])
        until("the pattern too", lambda: both(200) and publisher.pubsub_numpat() == 0)
        expect(publisher.publish("news", "unheard"), 0)
        expect(publisher.publish("sport", "heard"), 1)
        until("the last message", lambda: both(201))
        expect(received["message"][-1], ("sport", "heard"))
        subscriber.close()


def subscriber_with_health_checks():
    """A health check of a subscriber is a PING in subscriber mode."""
    with connect(health_check_interval=1) as client, connect() as publisher:
        received = []
        subscriber = client.pubsub(ignore_subscribe_messages=True)
        subscriber.subscribe(checked=lambda message: received.append(message["data"]))
        thread = subscriber.run_in_thread(sleep_time=0.05)
        for n in range(3):
            until("a receiver", lambda: publisher.publish("checked", str(n)) == 1)
            until("the message", lambda: received and received[-1] == str(n))
            # Longer than the interval, so that the library checks before the next message.
            thread.join(1.1)
        expect(received, ["0", "1", "2"])
        thread.stop()
        thread.join()
        subscriber.close()


def many_subscribers():
    with connect() as publisher, connect() as client:
        subscribers = [client.pubsub(ignore_subscribe_messages=True) for _ in range(12)]
        for n, subscriber in enumerate(subscribers):
            subscriber.subscribe("everybody", f"only:{n}")
        until("all subscribed", lambda: publisher.pubsub_numsub("everybody") == [("everybody", 12)])
        expect(publisher.publish("everybody", "hello") > 0, True)
        for n in range(12):
            expect(publisher.publish(f"only:{n}", f"to {n}"), 1)
        for n, subscriber in enumerate(subscribers):
            received = []

            def receive(subscriber=subscriber, received=received):
                message = subscriber.get_message(timeout=1)
                if message:
                    received.append(message["data"])
                return len(received) == 2

            until("two messages", receive)
            expect(received, ["hello", f"to {n}"])
            subscriber.close()


def blocking_pops():
    with connect() as client:
        taken = []

        def worker(n):
            with connect() as own:
                if n == 0:
                    for m in range(100):
                        own.rpush("blocking:list", m)
                    return
                while len(taken) < 100:
                    reply = own.blpop("blocking:list", timeout=0.2)
                    if reply is not None:
                        taken.append(int(reply[1]))

        in_threads(4, worker)
        expect(sorted(taken), list(range(100)))
        expect(client.brpop("blocking:nothing", timeout=0.1), None)
        client.zadd("blocking:zset", {"one": 1})
        expect(list(client.bzpopmin("blocking:zset", timeout=1)), ["blocking:zset", "one", 1.0])
        client.rpush("blocking:from", "element")
        expect(client.blmove("blocking:from", "blocking:to", 1), "element")


def streams():
    with connect() as client:
        client.xgroup_create("stream:work", "group", "0", mkstream=True)
        seen = []

        def worker(n):
            with connect() as own:
                if n == 0:
                    for m in range(60):
                        own.xadd("stream:work", {"n": m})
                    return
                while len(seen) < 60:
                    batch = own.xreadgroup("group", f"c{n}", {"stream:work": ">"}, count=5, block=200)
                    if not batch:
                        continue
                    entries = batch[0][1] if isinstance(batch, list) else batch["stream:work"][0]
                    for entry, fields in entries:
                        seen.append(int(fields["n"]))
                        expect(own.xack("stream:work", "group", entry), 1)

        in_threads(4, worker)
        expect(sorted(seen), list(range(60)))
        expect(client.xpending("stream:work", "group")["pending"], 0)


def scripts():
    with connect() as client:
        add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        expect([add(keys=["script:sum"], args=[2]) for _ in range(20)], [2 * (n + 1) for n in range(20)])
        client.script_flush()
        expect(add(keys=["script:sum"], args=[1]), 41)
        pipe = client.pipeline()
        add(keys=["script:sum"], args=[1], client=pipe)
        expect(pipe.get("script:sum").execute(), [42, "42"])


def databases_and_names():
    def worker(n):
        with connect(db=n % 8, client_name=f"module-{n}") as own:
            for m in range(20):
                own.set(f"module:{n}", f"{n} in round {m}")
                expect(own.get(f"module:{n}"), f"{n} in round {m}")
                expect(own.exists(f"module:{(n + 1) % 40}"), 0)
            expect(own.client_getname(), f"module-{n}")

    in_threads(40, worker)
    with connect(db=5) as client:
        expect(client.get("module:13"), "13 in round 19")
        expect(sorted(client.scan_iter("module:*")), sorted(f"module:{n}" for n in range(40) if n % 8 == 5))


def connection_killed():
    """The pool replaces a connection that was lost while nothing was outstanding."""
    with connect() as client, connect() as other:
        killed = client.client_id()
        expect(other.client_kill_filter(_id=killed), 1)
        expect(client.ping(), True)
        expect(client.client_id() != killed, True)


def client_side_caching():
    # The library asks for 7.4, "to maximize compatibility with all Redis products"; tracking is there from 6.0 on.
    # It also asks for a server called redis.
    CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"
    with connect() as client:
        CacheProxyConnection.DEFAULT_SERVER_NAME = client.info("server").get("server_name", "redis")
    with connect(cache_config=CacheConfig()) as reader, connect() as writer:
        writer.set("cached:key", "first")
        expect([reader.get("cached:key") for _ in range(50)], ["first"] * 50)
        expect(reader.get_cache().size, 1)
        writer.set("cached:key", "second")
        until("the invalidation", lambda: reader.get("cached:key") == "second")


CASES = [
    library_defaults, plain_commands, pipelines, watch_retries, watch_conflict, locks, publish_and_subscribe,
    subscriber_with_health_checks, many_subscribers, blocking_pops, streams, scripts, databases_and_names,
    connection_killed,
]  # fmt: skip
if PROTOCOL == 3:
    CASES.append(client_side_caching)

if __name__ == "__main__":
    run(CASES)
