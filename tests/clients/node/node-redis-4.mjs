// What only node-redis 4 has: isolated execution on a pool of the client's own, legacy mode, its way to define scripts.
import assert from "node:assert/strict";
import { commandOptions, defineScript } from "redis4";
import { numbers, until } from "./harness.mjs";

async function isolatedBlocking({ connect }) {
  const client = await connect({ isolationPoolOptions: { min: 0, max: 5 } });
  const isolated = commandOptions({ isolated: true });
  const taken = numbers(5).map((n) => client.blPop(isolated, `isolated:${n}`, 0));
  for (const n of numbers(5)) await client.rPush(`isolated:${n}`, `element ${n}`);
  const elements = await Promise.all(taken);
  assert.deepEqual(elements.map(({ element }) => element), numbers(5).map((n) => `element ${n}`));
}

async function isolatedTransactions({ connect }) {
  const client = await connect({ isolationPoolOptions: { min: 0, max: 4 } });
  const increment = async () => {
    for (;;) {
      const done = await client.executeIsolated(async (own) => {
        await own.watch("isolated:counter");
        const value = Number(await own.get("isolated:counter"));
        return own.multi().set("isolated:counter", String(value + 1)).exec().catch(() => null);
      });
      if (done !== null) return;
    }
  };
  await Promise.all(numbers(40).map(increment));
  assert.equal(await client.get("isolated:counter"), "40");
}

async function legacyMode({ connect }) {
  const client = await connect({ legacyMode: true });
  const call = (method, ...args) =>
    new Promise((resolve, reject) => client[method](...args, (error, reply) => (error ? reject(error) : resolve(reply))));
  assert.equal(await call("set", "legacy:key", "value"), "OK");
  assert.equal(await call("get", "legacy:key"), "value");
  assert.equal(await client.v4.get("legacy:key"), "value");
  const replies = await new Promise((resolve, reject) =>
    client.multi().incr("legacy:n").incr("legacy:n").exec((error, all) => (error ? reject(error) : resolve(all))),
  );
  assert.deepEqual(replies, [1, 2]);
}

async function legacyPubSub({ connect }) {
  const [subscriber, publisher] = [await connect({ legacyMode: true }), await connect()];
  const received = [];
  await subscriber.v4.subscribe("legacy:news", (message, channel) => received.push([channel, message]));
  assert.equal(await publisher.publish("legacy:news", "hello"), 1);
  await until("the message", () => received.length === 1);
  assert.deepEqual(received, [["legacy:news", "hello"]]);
}

async function scripts({ connect, prepare }) {
  const add = defineScript({
    NUMBER_OF_KEYS: 1,
    SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    transformArguments: (key, by) => [key, String(by)],
    transformReply: (reply) => reply,
  });
  const client = await connect({ scripts: { add } });
  const sums = await Promise.all(numbers(50).map(() => client.add("script:sum", 2)));
  assert.deepEqual(sums, numbers(50).map((n) => 2 * (n + 1)));
  await client.scriptFlush();
  assert.deepEqual(await client.multi().add("script:sum", 1).get("script:sum").exec(), [101, "101"]);
  assert.deepEqual(await client.eval("return {KEYS[1], ARGV[1]}", { keys: ["k"], arguments: ["a"] }), ["k", "a"]);
}

export const cases = () => ({ isolatedBlocking, isolatedTransactions, legacyMode, legacyPubSub, scripts });
