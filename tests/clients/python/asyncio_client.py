"""redis-py, the asyncio client: `python asyncio_client.py PROTOCOL`."""

import asyncio
import sys

import redis.asyncio as redis
from redis.exceptions import WatchError

from harness import SERVER, expect, run, until_async

PROTOCOL = int(sys.argv[1])


def connect(**options):
    return redis.Redis(**SERVER, protocol=PROTOCOL, decode_responses=True, **options)


async def plain_commands():
    async with connect() as client:

        async def one(n):
            expect(await client.set(f"plain:{n}", f"value {n}"), True)
            expect(await client.get(f"plain:{n}"), f"value {n}")

        # As many connections of the library's pool as there are calls at a time.
        for start in range(0, 300, 50):
            await asyncio.gather(*(one(n) for n in range(start, start + 50)))
        expect(await client.dbsize(), 300)


async def pipelines():
    async with connect() as client:
        plain = client.pipeline(transaction=False)
        for n in range(500):
            plain.set(f"pipeline:{n}", n).get(f"pipeline:{n}")
        expect(await plain.execute(), [reply for n in range(500) for reply in (True, str(n))])
        expect(await client.pipeline().incr("multi:n").get("multi:n").execute(), [1, "1"])


async def watch_retries():
    async def worker():
        async with connect() as client:
            for _ in range(20):
                async with client.pipeline() as pipe:
                    while True:
                        try:
                            await pipe.watch("watch:counter")
                            value = int(await pipe.get("watch:counter") or 0)
                            pipe.multi()
                            pipe.set("watch:counter", value + 1)
                            await pipe.execute()
                            break
                        except WatchError:
                            conflicts.append(1)

    conflicts = []
    await asyncio.gather(*(worker() for _ in range(6)))
    async with connect() as client:
        expect(await client.get("watch:counter"), "120")
    expect(len(conflicts) > 0, True)


async def locks():
    holders, most = [], []

    async def worker(n):
        async with connect() as client:
            for _ in range(5):
                async with client.lock("lock:one", timeout=30, sleep=0.005):
                    holders.append(n)
                    most.append(len(holders))
                    value = int(await client.get("lock:guarded") or 0)
                    await client.set("lock:guarded", value + 1)
                    holders.remove(n)

    await asyncio.gather(*(worker(n) for n in range(8)))
    expect(max(most), 1)
    async with connect() as client:
        expect(await client.get("lock:guarded"), "40")


async def publish_and_subscribe():
    async with connect() as publisher, connect() as client, client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe("news")
        await subscriber.psubscribe("new?")
        received = []

        async def listen():
            async for message in subscriber.listen():
                received.append((message["type"], message["data"]))

        listening = asyncio.create_task(listen())

        async def subscribed():
            return await publisher.pubsub_numsub("news") == [("news", 1)] and await publisher.pubsub_numpat() == 1

        await until_async("subscribed", subscribed)
        for n in range(200):
            expect(await publisher.publish("news", f"item {n}"), 2)

        async def all_there():
            return len(received) == 400

        await until_async("all messages", all_there)
        for kind in ("message", "pmessage"):
            expect([data for of, data in received if of == kind], [f"item {n}" for n in range(200)])
        listening.cancel()


async def many_subscribers():
    async with connect() as publisher, connect() as client:

        async def subscribe(n):
            async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                await subscriber.subscribe("everybody", f"only:{n}")
                received = []
                while len(received) < 2:
                    message = await subscriber.get_message(timeout=30)
                    if message:
                        received.append(message["data"])
                return received

        subscribers = [asyncio.create_task(subscribe(n)) for n in range(12)]

        async def subscribed():
            return await publisher.pubsub_numsub("everybody") == [("everybody", 12)]

        await until_async("all subscribed", subscribed)
        expect(await publisher.publish("everybody", "hello") > 0, True)
        for n in range(12):
            expect(await publisher.publish(f"only:{n}", f"to {n}"), 1)
        expect(await asyncio.gather(*subscribers), [["hello", f"to {n}"] for n in range(12)])


async def blocking_pops():
    async with connect() as client:

        async def consume(n):
            return await client.blpop(f"blocking:{n}", timeout=0)

        waiting = [asyncio.create_task(consume(n)) for n in range(20)]
        for n in range(20):
            await client.rpush(f"blocking:{n}", f"element {n}")
        expect([list(reply) for reply in await asyncio.gather(*waiting)], [[f"blocking:{n}", f"element {n}"] for n in range(20)])
        expect(await client.blpop("blocking:nothing", timeout=0.1), None)


async def cancelled_call():
    """A task that is cancelled in a blocking call must leave nothing behind for the next user of the pool."""
    async with connect(max_connections=2) as client:
        waiting = asyncio.create_task(client.blpop("cancelled:list", timeout=0))

        async def blocked():
            return any(other["cmd"] == "blpop" for other in await client.client_list())

        await until_async("blocked", blocked)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        async def gone():
            return not any(other["cmd"] == "blpop" for other in await client.client_list())

        await until_async("the blocked connection is gone", gone)
        await client.rpush("cancelled:list", "kept")
        expect(await client.lrange("cancelled:list", 0, -1), ["kept"])


CASES = [
    plain_commands, pipelines, watch_retries, locks, publish_and_subscribe, many_subscribers, blocking_pops, cancelled_call,
]  # fmt: skip

if __name__ == "__main__":
    run(CASES)
