// node-redis 4 and 6: `node node-redis.mjs PACKAGE PROTOCOL`. Version 4 knows RESP2 only. What only one of them has
// stands in node-redis-4.mjs and node-redis-6.mjs.
import assert from "node:assert/strict";
import { numbers, run, socket, sorted, until } from "./harness.mjs";

const [packageName, protocol] = process.argv.slice(2);
const { createClient, WatchError } = await import(packageName);
const old = packageName === "redis4";
const protocolOptions = old ? {} : { RESP: Number(protocol) };

const open = [];

/** A client that is not connected yet. */
function prepare(options = {}) {
  const client = createClient({ socket, ...protocolOptions, ...options });
  client.on("error", () => {}); // Told by the command that fails; without a listener it ends the process.
  open.push(client);
  return client;
}

async function connect(options = {}) {
  const client = prepare(options);
  await client.connect();
  return client;
}

const closing = (work) => async () => {
  try {
    await work({ connect, prepare, open, packageName, protocolOptions });
  } finally {
    for (const client of open.splice(0)) {
      if (client.isOpen) await (old ? client.disconnect() : client.destroy());
    }
  }
};

async function plainCommands() {
  const client = await connect();
  assert.equal(await client.set("plain:text", "gr\u00fc\u00dfe \u{1F600}"), "OK");
  assert.equal(await client.get("plain:text"), "gr\u00fc\u00dfe \u{1F600}");
  const large = "x".repeat(1_500_000);
  await client.set("plain:large", large);
  assert.equal(await client.get("plain:large"), large);
  assert.equal(await client.get("plain:none"), null);
  await client.hSet("plain:hash", { a: "1", b: "2" });
  assert.deepEqual({ ...(await client.hGetAll("plain:hash")) }, { a: "1", b: "2" });
  await client.zAdd("plain:zset", [{ score: 1.5, value: "one" }, { score: 2.5, value: "two" }]);
  assert.equal(await client.zScore("plain:zset", "two"), 2.5);
  assert.deepEqual(await client.zRange("plain:zset", 0, -1), ["one", "two"]);
  await assert.rejects(client.incr("plain:text"), /not an integer/);
  await assert.rejects(client.sendCommand(["NOSUCHCOMMAND"]), /unknown command/);
}

async function pipelines() {
  // What is called in one turn of the event loop travels as one pipeline.
  const client = await connect();
  const replies = await Promise.all(
    numbers(500).flatMap((n) => [client.set(`pipeline:${n}`, String(n)), client.get(`pipeline:${n}`)]),
  );
  assert.deepEqual(replies, numbers(500).flatMap((n) => ["OK", String(n)]));
  const settled = await Promise.allSettled([client.lPush("pipeline:0", "x"), client.get("pipeline:7")]);
  assert.match(settled[0].reason.message, /WRONGTYPE/);
  assert.equal(settled[1].value, "7");
}

async function commandsBeforeConnected({ prepare }) {
  const client = prepare();
  const connected = client.connect();
  const counts = await Promise.all(numbers(50).map(() => client.incr("offline:counter")));
  await connected;
  assert.deepEqual(counts, numbers(50).map((n) => n + 1));
}

async function reconnecting() {
  const client = await connect({ database: 5, name: "reconnecting" });
  const other = await connect({ database: 5 });
  await client.set("reconnect:key", "before");
  const killed = await client.sendCommand(["CLIENT", "ID"]);
  const ready = new Promise((resolve) => client.once("ready", resolve));
  assert.equal(await other.sendCommand(["CLIENT", "KILL", "ID", String(killed)]), 1);
  await ready;
  assert.equal(await client.get("reconnect:key"), "before");
  assert.notEqual(await client.sendCommand(["CLIENT", "ID"]), killed);
  assert.equal(await client.clientGetName(), "reconnecting");
}

async function resubscribing() {
  const subscriber = await connect();
  const other = await connect();
  const received = [];
  const id = await subscriber.sendCommand(["CLIENT", "ID"]);
  await subscriber.subscribe("resubscribe", (message) => received.push(message));
  assert.equal(await other.publish("resubscribe", "first"), 1);
  assert.equal(await other.sendCommand(["CLIENT", "KILL", "ID", String(id)]), 1);
  await until("subscribed again", async () => (await other.publish("resubscribe", "again")) === 1);
  await until("the message after it", () => received.length >= 2);
  assert.equal(received[0], "first");
  assert.equal(received.at(-1), "again");
}

async function publishAndSubscribe() {
  const publisher = await connect();
  const subscriber = publisher.duplicate();
  open.push(subscriber);
  await subscriber.connect();
  const [direct, matched, bytes] = [[], [], []];
  const listener = (message, channel) => direct.push([channel, message]);
  await subscriber.subscribe(["news", "sport"], listener);
  await subscriber.pSubscribe("new?", (message, channel) => matched.push([channel, message]));
  await subscriber.subscribe("news", (message) => bytes.push(message), true);
  for (const n of numbers(200)) await publisher.publish("news", `item ${n}`);
  await until("all messages", () => direct.length === 200 && matched.length === 200 && bytes.length === 200);
  const expected = numbers(200).map((n) => ["news", `item ${n}`]);
  assert.deepEqual(direct, expected);
  assert.deepEqual(matched, expected);
  assert.deepEqual(bytes.map(String), expected.map(([, message]) => message));
  await subscriber.unsubscribe("news");
  await subscriber.pUnsubscribe("new?");
  assert.equal(await publisher.publish("news", "unheard"), 0);
  assert.equal(await publisher.publish("sport", "heard"), 1);
  await until("the last message", () => direct.length === 201);
  await subscriber.unsubscribe("sport");
  assert.equal(await publisher.publish("sport", "unheard"), 0);
  await subscriber.set("pubsub:after", "usable again");
  // In RESP2 version 6 gives the first value after a subscription as a Buffer, directly too.
  assert.equal(String(await subscriber.get("pubsub:after")), "usable again");
}

async function shardedPubSub() {
  const [subscriber, publisher] = [await connect(), await connect()];
  const received = [];
  await subscriber.sSubscribe("shard-channel", (message) => received.push(message));
  assert.equal(await publisher.sPublish("shard-channel", "sharded"), 1);
  assert.equal(await publisher.publish("shard-channel", "of the other kind"), 0);
  await until("the sharded message", () => received.length === 1);
  assert.deepEqual(received, ["sharded"]);
  await subscriber.sUnsubscribe("shard-channel");
  assert.equal(await publisher.sPublish("shard-channel", "unheard"), 0);
}

async function manySubscribers() {
  const publisher = await connect();
  const received = numbers(12).map(() => []);
  await Promise.all(
    received.map(async (messages, n) => {
      const subscriber = await connect();
      await subscriber.subscribe(["everybody", `only:${n}`], (message) => messages.push(message));
    }),
  );
  assert.deepEqual({ ...(await publisher.pubSubNumSub(["everybody", "only:3"])) }, { everybody: 12, "only:3": 1 });
  assert.ok((await publisher.publish("everybody", "hello")) > 0);
  for (const n of numbers(12)) assert.equal(await publisher.publish(`only:${n}`, `to ${n}`), 1);
  await until("two messages each", () => received.every((messages) => messages.length === 2));
  received.forEach((messages, n) => assert.deepEqual(messages, ["hello", `to ${n}`]));
}

async function transactions() {
  const client = await connect();
  const replies = await client.multi().set("multi:key", "1").incr("multi:key").get("multi:key").exec();
  assert.deepEqual(replies, ["OK", 2, "2"]);
  await assert.rejects(client.multi().lPush("multi:key", "x").exec());
  assert.equal(await client.get("multi:key"), "2");
  await assert.rejects(client.multi().addCommand(["SET", "multi:key"]).incr("multi:key").exec());
  assert.equal(await client.get("multi:key"), "2");
  const counted = await Promise.all(numbers(50).map(() => client.multi().incr("multi:n").incr("multi:n").exec()));
  assert.deepEqual(counted, numbers(50).map((n) => [2 * n + 1, 2 * n + 2]));
  const inOther = await client.multi().select(6).set("multi:six", "6").exec();
  assert.deepEqual(inOther, ["OK", "OK"]);
  await client.select(0);
  assert.equal(await client.exists("multi:six"), 0);
}

async function watchRetries() {
  let conflicts = 0;
  await Promise.all(
    numbers(6).map(async () => {
      const client = await connect();
      for (let done = 0; done < 20; ) {
        await client.watch("watch:counter");
        const value = Number(await client.get("watch:counter"));
        try {
          await client.multi().set("watch:counter", String(value + 1)).exec();
          done += 1;
        } catch (error) {
          assert.ok(error instanceof WatchError, error);
          conflicts += 1;
        }
      }
    }),
  );
  assert.equal(await (await connect()).get("watch:counter"), "120");
  assert.ok(conflicts > 0, "six clients that never met show nothing of WATCH");
}

async function databasesAndNames() {
  const clients = await Promise.all(numbers(40).map((n) => connect({ database: n % 8, name: `module-${n}` })));
  await Promise.all(
    clients.map(async (client, n) => {
      for (const round of numbers(20)) {
        await client.set(`module:${n}`, `${n} in round ${round}`);
        assert.equal(await client.get(`module:${n}`), `${n} in round ${round}`);
        assert.equal(await client.exists(`module:${(n + 1) % 40}`), 0, "a key of another database");
      }
      assert.equal(await client.clientGetName(), `module-${n}`);
    }),
  );
  await clients[0].select(5);
  assert.equal(await clients[0].get("module:13"), "13 in round 19");
}

async function scanning() {
  const client = await connect({ database: 9 });
  await client.mSet(numbers(2000).flatMap((n) => [`scan:${n}`, String(n)]));
  const keys = new Set();
  // Version 4 yields keys, later ones yield the batches of each reply.
  for await (const found of client.scanIterator({ MATCH: "scan:*", COUNT: 100 })) [found].flat().forEach((key) => keys.add(key));
  assert.deepEqual(sorted(keys), sorted(numbers(2000).map((n) => `scan:${n}`)));
}

async function blockingOnOwnClient() {
  const [consumer, waiter, producer] = [await connect(), await connect(), await connect()];
  const taken = [];
  const consumed = (async () => {
    while (taken.length < 100) taken.push((await consumer.blPop("blocking:list", 0)).element);
  })();
  for (const n of numbers(100)) await producer.rPush("blocking:list", String(n));
  await consumed;
  assert.deepEqual(taken, numbers(100).map(String));
  assert.equal(await waiter.blPop("blocking:nothing", 0.1), null);
  const popped = waiter.bzPopMin("blocking:zset", 0);
  await producer.zAdd("blocking:zset", { score: 1, value: "one" });
  const { key, score, value } = await popped;
  assert.deepEqual([key, score, value], ["blocking:zset", 1, "one"]);
}

async function streams() {
  const writer = await connect();
  await writer.xGroupCreate("stream:work", "group", "0", { MKSTREAM: true });
  const seen = [];
  const consumers = numbers(3).map(async (n) => {
    const client = await connect();
    while (seen.length < 60) {
      const wanted = [{ key: "stream:work", id: ">" }];
      const batch = await client.xReadGroup("group", `c${n}`, wanted, { COUNT: 5, BLOCK: 200 });
      for (const { id, message } of batch?.[0].messages ?? []) {
        seen.push(Number(message.n));
        assert.equal(await client.xAck("stream:work", "group", id), 1);
      }
    }
  });
  for (const n of numbers(60)) await writer.xAdd("stream:work", "*", { n: String(n) });
  await Promise.all(consumers);
  assert.deepEqual(sorted(seen), numbers(60));
}

const { cases: ownCases } = await import(old ? "./node-redis-4.mjs" : "./node-redis-6.mjs");
const cases = {
  plainCommands, pipelines, commandsBeforeConnected, reconnecting, resubscribing, publishAndSubscribe, shardedPubSub,
  manySubscribers, transactions, watchRetries, databasesAndNames, scanning, blockingOnOwnClient, streams,
  ...ownCases(protocol),
};
await run(Object.fromEntries(Object.entries(cases).map(([name, work]) => [name, closing(work)])));
