// ioredis 5 and 6, each with its defaults: `node ioredis.mjs PACKAGE PROTOCOL`. Version 5 knows RESP2 only.
import assert from "node:assert/strict";
import { arrival, connection, numbers, run, sorted, until } from "./harness.mjs";

const [packageName, protocol] = process.argv.slice(2);
const { Redis } = await import(packageName);
const protocolOptions = packageName === "ioredis5" ? {} : { protocol: Number(protocol) };

const open = [];

function connect(options = {}) {
  const redis = new Redis({ ...connection, ...protocolOptions, ...options });
  redis.on("error", () => {}); // Told by the command that fails; without a listener ioredis prints each.
  open.push(redis);
  return redis;
}

/** Each case leaves no client behind. */
const closing = (work) => async () => {
  try {
    await work();
  } finally {
    for (const redis of open.splice(0)) redis.disconnect();
  }
};

async function plainCommands() {
  const redis = connect();
  assert.equal(await redis.set("plain:text", "gr\u00fc\u00dfe \u{1F600}"), "OK");
  assert.equal(await redis.get("plain:text"), "gr\u00fc\u00dfe \u{1F600}");
  const bytes = Buffer.from(numbers(256));
  await redis.set("plain:bytes", bytes);
  assert.deepEqual(await redis.getBuffer("plain:bytes"), bytes);
  const large = "x".repeat(1_500_000);
  await redis.set("plain:large", large);
  assert.equal(await redis.get("plain:large"), large);
  assert.equal(await redis.get("plain:none"), null);
  await redis.hset("plain:hash", { a: "1", b: "2" });
  assert.deepEqual(await redis.hgetall("plain:hash"), { a: "1", b: "2" });
  await redis.zadd("plain:zset", 1.5, "one", 2.5, "two");
  assert.deepEqual(await redis.zrange("plain:zset", 0, -1, "WITHSCORES"), ["one", "1.5", "two", "2.5"]);
  await assert.rejects(redis.incr("plain:text"), /not an integer/);
  const values = await Promise.all(
    numbers(300).map(async (n) => {
      await redis.set(`plain:${n}`, `value ${n}`);
      return redis.get(`plain:${n}`);
    }),
  );
  assert.deepEqual(values, numbers(300).map((n) => `value ${n}`));
}

async function pipelines() {
  const redis = connect();
  const pipeline = redis.pipeline();
  for (const n of numbers(500)) pipeline.set(`pipeline:${n}`, n).get(`pipeline:${n}`);
  pipeline.lpush("pipeline:0", "wrong").get("pipeline:499");
  const replies = await pipeline.exec();
  assert.equal(replies.length, 1002);
  for (const n of numbers(500)) {
    assert.deepEqual(replies[2 * n], [null, "OK"]);
    assert.deepEqual(replies[2 * n + 1], [null, String(n)]);
  }
  assert.match(replies[1000][0].message, /WRONGTYPE/);
  assert.deepEqual(replies[1001], [null, "499"]);
}

async function autoPipelining() {
  const redis = connect({ enableAutoPipelining: true });
  await Promise.all(numbers(1000).map((n) => redis.set(`auto:${n}`, `value ${n}`)));
  const values = await Promise.all(numbers(1000).map((n) => redis.get(`auto:${n}`)));
  assert.deepEqual(values, numbers(1000).map((n) => `value ${n}`));
  const counts = await Promise.all(numbers(200).map(() => redis.incr("auto:counter")));
  assert.deepEqual(counts, numbers(200).map((n) => n + 1));
}

async function offlineQueue() {
  const redis = connect({ lazyConnect: true });
  assert.equal(redis.status, "wait");
  const early = numbers(50).map((n) => redis.incr("offline:counter").then((count) => assert.equal(count, n + 1)));
  await Promise.all(early);
  assert.equal(await redis.get("offline:counter"), "50");
}

async function reconnecting() {
  const redis = connect({ db: 5, connectionName: "reconnecting" });
  const other = connect({ db: 5 });
  await redis.set("reconnect:key", "before");
  const back = arrival();
  redis.once("close", () => redis.once("ready", back.resolve));
  const killed = await redis.client("ID");
  assert.equal(await other.client("KILL", "ID", killed), 1);
  await back.promise;
  assert.equal(await redis.get("reconnect:key"), "before");
  assert.notEqual(await redis.client("ID"), killed);
  assert.equal(await redis.client("GETNAME"), "reconnecting");
  await redis.set("reconnect:key", "after");
  assert.equal(await other.get("reconnect:key"), "after");
}

async function resubscribing() {
  const subscriber = connect();
  const other = connect();
  const received = [];
  subscriber.on("message", (channel, message) => received.push([channel, message]));
  const id = await subscriber.client("ID");
  await subscriber.subscribe("resubscribe:a", "resubscribe:b");
  assert.equal(await other.publish("resubscribe:a", "first"), 1);
  assert.equal(await other.client("KILL", "ID", id), 1);
  await until("subscribed again", async () => (await other.publish("resubscribe:b", "again")) === 1);
  await until("the message after it", () => received.length >= 2);
  assert.deepEqual(received[0], ["resubscribe:a", "first"]);
  assert.deepEqual(received.at(-1), ["resubscribe:b", "again"]);
}

async function luaCommands() {
  const redis = connect({
    scripts: { reverse: { numberOfKeys: 1, lua: "return {ARGV[2], ARGV[1], redis.call('GET', KEYS[1])}" } },
  });
  redis.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  await redis.set("lua:key", "kept");
  assert.deepEqual(await redis.reverse("lua:key", "a", "b"), ["b", "a", "kept"]);
  const sums = await Promise.all(numbers(50).map(() => redis.add("lua:sum", 2)));
  assert.deepEqual(sums, numbers(50).map((n) => 2 * (n + 1)));
  await redis.script("FLUSH");
  const replies = await redis.pipeline().add("lua:sum", 1).reverse("lua:key", "c", "d").exec();
  assert.deepEqual(replies, [[null, 101], [null, ["d", "c", "kept"]]]);
  await assert.rejects(redis.evalsha("0".repeat(40), 0), /NOSCRIPT/);
}

async function publishAndSubscribe() {
  const subscriber = connect();
  const publisher = connect();
  const received = { message: [], pmessage: [] };
  subscriber.on("message", (...event) => received.message.push(event));
  subscriber.on("pmessage", (...event) => received.pmessage.push(event));
  assert.equal(await subscriber.subscribe("news", "sport", "weather"), 3);
  assert.equal(await subscriber.psubscribe("new?"), 4);
  for (const n of numbers(200)) await publisher.publish("news", `item ${n}`);
  await until("all messages", () => received.message.length === 200 && received.pmessage.length === 200);
  assert.deepEqual(received.message, numbers(200).map((n) => ["news", `item ${n}`]));
  assert.deepEqual(received.pmessage, numbers(200).map((n) => ["new?", "news", `item ${n}`]));
  assert.equal(await subscriber.unsubscribe("news"), 3);
  assert.equal(await subscriber.punsubscribe("new?"), 2);
  assert.equal(await publisher.publish("news", "unheard"), 0);
  assert.equal(await publisher.publish("sport", "heard"), 1);
  await until("the last message", () => received.message.length === 201);
  assert.deepEqual(received.message.at(-1), ["sport", "heard"]);
  assert.equal(await subscriber.unsubscribe("sport", "weather"), 0);
  await subscriber.set("pubsub:after", "usable again");
  assert.equal(await subscriber.get("pubsub:after"), "usable again");
}

async function manySubscribers() {
  const subscribers = numbers(12).map(() => connect());
  const publisher = connect();
  const received = subscribers.map(() => []);
  await Promise.all(
    subscribers.map(async (subscriber, n) => {
      subscriber.on("message", (channel, message) => received[n].push([channel, message]));
      await subscriber.subscribe("everybody", `only:${n}`);
    }),
  );
  assert.deepEqual(await publisher.pubsub("NUMSUB", "everybody", "only:3"), ["everybody", 12, "only:3", 1]);
  assert.ok((await publisher.publish("everybody", "hello")) > 0);
  for (const n of numbers(12)) assert.equal(await publisher.publish(`only:${n}`, `to ${n}`), 1);
  await until("two messages each", () => received.every((messages) => messages.length === 2));
  received.forEach((messages, n) => assert.deepEqual(messages, [["everybody", "hello"], [`only:${n}`, `to ${n}`]]));
}

async function transactions() {
  const redis = connect();
  const replies = await redis.multi().set("multi:key", 1).incr("multi:key").get("multi:key").lpush("multi:key", 1).exec();
  assert.deepEqual(replies.slice(0, 3), [[null, "OK"], [null, 2], [null, "2"]]);
  assert.match(replies[3][0].message, /WRONGTYPE/);
  // Not as a pipeline: MULTI, the commands and EXEC travel one by one.
  assert.equal(await redis.multi({ pipeline: false }), "OK");
  assert.equal(await redis.set("multi:key", "inside"), "QUEUED");
  assert.equal(await connect().get("multi:key"), "2");
  assert.deepEqual(await redis.exec(), [[null, "OK"]]);
  assert.equal(await redis.get("multi:key"), "inside");
  await redis.multi({ pipeline: false });
  await redis.set("multi:key", "dropped");
  assert.equal(await redis.discard(), "OK");
  assert.equal(await redis.get("multi:key"), "inside");
  await redis.multi({ pipeline: false });
  await assert.rejects(redis.call("SET", "multi:key"), /wrong number of arguments/);
  await assert.rejects(redis.exec(), /EXECABORT/);
  const inPipeline = await redis.pipeline().multi().incr("multi:count").incr("multi:count").exec().get("multi:count").exec();
  assert.deepEqual(inPipeline.slice(-2), [[null, [1, 2]], [null, "2"]]);
}

async function watchRetries() {
  let conflicts = 0;
  await Promise.all(
    numbers(6).map(async () => {
      const redis = connect();
      for (let done = 0; done < 20; ) {
        await redis.watch("watch:counter");
        const value = Number(await redis.get("watch:counter"));
        if ((await redis.multi().set("watch:counter", value + 1).exec()) === null) conflicts += 1;
        else done += 1;
      }
    }),
  );
  assert.equal(await connect().get("watch:counter"), "120");
  assert.ok(conflicts > 0, "six clients that never met show nothing of WATCH");
}

async function namesAndDatabases() {
  const named = connect({ connectionName: "orders-api", db: 3 });
  const plain = connect();
  assert.equal(await named.client("GETNAME"), "orders-api");
  assert.match(await plain.client("LIST"), / name=orders-api .* db=3 /);
  await Promise.all([named.set("db:key", "three"), plain.set("db:key", "zero")]);
  assert.deepEqual([await named.get("db:key"), await plain.get("db:key")], ["three", "zero"]);
  await plain.select(3);
  assert.equal(await plain.get("db:key"), "three");
  await assert.rejects(plain.select(1000), /out of range/);
  assert.equal(await plain.get("db:key"), "three");
}

async function manyInstances() {
  // As an application of many modules, each with its own client object.
  const instances = numbers(40).map((n) => connect({ db: n % 8, connectionName: `module-${n}` }));
  const duplicate = instances[7].duplicate();
  open.push(duplicate);
  await Promise.all(
    instances.map(async (redis, n) => {
      for (const round of numbers(20)) {
        await redis.set(`module:${n}`, `${n} in round ${round}`);
        assert.equal(await redis.get(`module:${n}`), `${n} in round ${round}`);
        assert.equal(await redis.exists(`module:${(n + 1) % 40}`), 0, "a key of another database");
      }
    }),
  );
  assert.equal(await duplicate.get("module:7"), "7 in round 19");
}

async function blockingCalls() {
  const [consumer, waiter, producer, busy] = numbers(4).map(() => connect());
  const taken = [];
  const consumed = (async () => {
    while (taken.length < 100) taken.push((await consumer.blpop("blocking:list", 0))[1]);
  })();
  const plain = numbers(200).map(async (n) => {
    await busy.set(`blocking:${n}`, n);
    assert.equal(await busy.get(`blocking:${n}`), String(n));
  });
  for (const n of numbers(100)) await producer.rpush("blocking:list", n);
  await Promise.all([consumed, ...plain]);
  assert.deepEqual(taken, numbers(100).map(String));
  assert.equal(await waiter.blpop("blocking:nothing", 0.1), null);
  const popped = waiter.bzpopmin("blocking:zset", 0);
  await producer.zadd("blocking:zset", 2, "two", 1, "one");
  const first = await popped;
  assert.deepEqual(first.slice(0, 2), ["blocking:zset", "one"]);
  assert.equal(Number(first[2]), 1);
  const moved = waiter.blmove("blocking:from", "blocking:to", "LEFT", "RIGHT", 0);
  await producer.rpush("blocking:from", "element");
  assert.equal(await moved, "element");
  assert.deepEqual(await producer.lrange("blocking:to", 0, -1), ["element"]);
}

async function streams() {
  const [reader, writer] = [connect(), connect()];
  const fresh = reader.xread("BLOCK", 0, "STREAMS", "stream:live", "$");
  // What `$` means is fixed when the server sees the call; entries before it are not the reader's.
  let live;
  const writing = (async () => {
    while (!live) await writer.xadd("stream:live", "*", "n", "1"), await new Promise((done) => setTimeout(done, 5));
  })();
  live = await fresh;
  await writing;
  assert.equal(live[0][0], "stream:live");
  assert.deepEqual(live[0][1][0][1], ["n", "1"]);
  await writer.xgroup("CREATE", "stream:work", "group", "0", "MKSTREAM");
  const seen = [];
  const consumers = numbers(3).map(async (n) => {
    const redis = connect();
    while (seen.length < 60) {
      const batch = await redis.xreadgroup("GROUP", "group", `c${n}`, "COUNT", 5, "BLOCK", 200, "STREAMS", "stream:work", ">");
      for (const [id, fields] of batch?.[0][1] ?? []) {
        seen.push(fields[1]);
        assert.equal(await redis.xack("stream:work", "group", id), 1);
      }
    }
  });
  for (const n of numbers(60)) await writer.xadd("stream:work", "*", "n", n);
  await Promise.all(consumers);
  assert.deepEqual(sorted(seen.map(Number)), numbers(60));
  assert.equal((await writer.xpending("stream:work", "group"))[0], 0);
}

async function scanStreams() {
  const redis = connect({ db: 9 });
  await redis.mset(numbers(2000).flatMap((n) => [`scan:${n}`, n]));
  const keys = new Set();
  for await (const batch of redis.scanStream({ match: "scan:*", count: 100 })) batch.forEach((key) => keys.add(key));
  assert.deepEqual(sorted(keys), sorted(numbers(2000).map((n) => `scan:${n}`)));
  await redis.hset("scan-hash", Object.fromEntries(numbers(700).map((n) => [`field ${n}`, n])));
  const fields = new Map();
  for await (const batch of redis.hscanStream("scan-hash")) {
    for (let at = 0; at < batch.length; at += 2) fields.set(batch[at], batch[at + 1]);
  }
  assert.equal(fields.size, 700);
  for (const n of numbers(700)) assert.equal(fields.get(`field ${n}`), String(n));
}

async function keyspaceNotifications() {
  const [subscriber, writer] = [connect(), connect()];
  await writer.config("SET", "notify-keyspace-events", "K$");
  const received = [];
  subscriber.on("pmessage", (_pattern, channel, event) => received.push([channel, event]));
  await subscriber.psubscribe("__keyspace@0__:notified:*");
  await writer.set("notified:a", 1);
  await writer.incr("notified:a");
  await until("both events", () => received.length === 2);
  assert.deepEqual(received, [["__keyspace@0__:notified:a", "set"], ["__keyspace@0__:notified:a", "incrby"]]);
}

async function monitoring() {
  const [redis, writer] = [connect(), connect()];
  // ioredis fails when the first line comes in one read with the reply to MONITOR.
  let monitor;
  await until("MONITOR is on", async () => (monitor = await redis.monitor().catch(() => undefined)) !== undefined);
  open.push(monitor);
  const seen = [];
  monitor.on("monitor", (_time, command) => seen.push(command.join(" ")));
  await until("a command seen by MONITOR", async () => {
    await writer.set("monitored:key", "value");
    return seen.some((command) => command.toLowerCase() === "set monitored:key value");
  });
}

async function resp3Replies() {
  const redis = connect({ replyMapping: "resp3" });
  await redis.hset("resp3:hash", { a: "1" });
  await redis.zadd("resp3:zset", 1.5, "one");
  assert.equal(await redis.zscore("resp3:zset", "one"), 1.5);
  assert.equal((await redis.call("HELLO")).proto, 3);
  const raw = await redis.call("HGETALL", "resp3:hash");
  assert.equal(raw instanceof Map ? raw.get("a") : raw.a, "1");
}

const cases = {
  plainCommands, pipelines, autoPipelining, offlineQueue, reconnecting, resubscribing, luaCommands, publishAndSubscribe,
  manySubscribers, transactions, watchRetries, namesAndDatabases, manyInstances, blockingCalls, streams, scanStreams,
  keyspaceNotifications, monitoring,
};
if (protocol === "3") cases.resp3Replies = resp3Replies;
await run(Object.fromEntries(Object.entries(cases).map(([name, work]) => [name, closing(work)])));
