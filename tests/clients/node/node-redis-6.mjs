// What only node-redis 6 has: pools, its way to define scripts, client-side caching in RESP3.
import assert from "node:assert/strict";
import { BasicClientSideCache, createClientPool, defineScript } from "redis6";
import { numbers, socket, until } from "./harness.mjs";

async function pooled(protocolOptions, poolOptions, work) {
  const pool = createClientPool({ socket, ...protocolOptions }, poolOptions);
  pool.on("error", () => {});
  await pool.connect();
  try {
    await work(pool);
  } finally {
    pool.destroy();
  }
}

async function pools({ connect, protocolOptions }) {
  const client = await connect();
  await pooled(protocolOptions, { minimum: 1, maximum: 10 }, async (pool) => {
    const values = await Promise.all(
      numbers(300).map(async (n) => {
        await pool.set(`pool:${n}`, `value ${n}`);
        return pool.get(`pool:${n}`);
      }),
    );
    assert.deepEqual(values, numbers(300).map((n) => `value ${n}`));
    const taken = numbers(5).map((n) => pool.blPop(`pool:list:${n}`, 0));
    for (const n of numbers(5)) await client.rPush(`pool:list:${n}`, `element ${n}`);
    assert.deepEqual((await Promise.all(taken)).map(({ element }) => element), numbers(5).map((n) => `element ${n}`));
  });
}

async function pooledTransactions({ protocolOptions }) {
  await pooled(protocolOptions, { minimum: 1, maximum: 4 }, async (pool) => {
    const increment = async () => {
      for (;;) {
        const done = await pool.execute(async (client) => {
          await client.watch("pool:counter");
          const value = Number(await client.get("pool:counter"));
          return client.multi().set("pool:counter", String(value + 1)).exec().catch(() => null);
        });
        if (done !== null) return;
      }
    };
    await Promise.all(numbers(40).map(increment));
    assert.equal(await pool.get("pool:counter"), "40");
  });
}

async function legacyInterface({ connect }) {
  const legacy = (await connect()).legacy();
  const call = (method, ...args) =>
    new Promise((resolve, reject) => legacy[method](...args, (error, reply) => (error ? reject(error) : resolve(reply))));
  assert.equal(await call("set", "legacy:key", "value"), "OK");
  assert.equal(await call("get", "legacy:key"), "value");
}

async function scripts({ connect }) {
  const add = defineScript({
    NUMBER_OF_KEYS: 1,
    SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    parseCommand(parser, key, by) {
      parser.pushKey(key);
      parser.push(String(by));
    },
    transformReply: (reply) => reply,
  });
  const client = await connect({ scripts: { add } });
  const sums = await Promise.all(numbers(50).map(() => client.add("script:sum", 2)));
  assert.deepEqual(sums, numbers(50).map((n) => 2 * (n + 1)));
  await client.scriptFlush();
  assert.deepEqual(await client.multi().add("script:sum", 1).get("script:sum").exec(), [101, "101"]);
}

async function clientSideCaching({ connect }) {
  const cache = new BasicClientSideCache({ ttl: 0, maxEntries: 100 });
  const [reader, writer] = [await connect({ clientSideCache: cache }), await connect()];
  await writer.set("cached:key", "first");
  assert.equal(await reader.get("cached:key"), "first");
  const missesBefore = cache.stats().missCount;
  for (let n = 0; n < 50; n += 1) assert.equal(await reader.get("cached:key"), "first");
  assert.equal(cache.stats().missCount, missesBefore, "all of these came from the cache");
  await writer.set("cached:key", "second");
  await until("the invalidation", async () => (await reader.get("cached:key")) === "second");
}

async function commandsWhileSubscribed({ connect }) {
  // RESP3 has no separate mode for subscribers.
  const [client, publisher] = [await connect(), await connect()];
  const received = [];
  await client.subscribe("resp3:news", (message) => received.push(message));
  await client.set("resp3:key", "set while subscribed");
  assert.equal(await client.get("resp3:key"), "set while subscribed");
  assert.equal(await publisher.publish("resp3:news", "hello"), 1);
  await until("the message", () => received.length === 1);
}

export const cases = (protocol) => ({
  pools,
  pooledTransactions,
  legacyInterface,
  scripts,
  ...(protocol === "3" ? { clientSideCaching, commandsWhileSubscribed } : {}),
});
