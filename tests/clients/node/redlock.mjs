// A lock by SET NX PX, released and extended by Lua: the redlock library, and the script written out.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis5";
import Redlock from "redlock";
import { connection, numbers, run } from "./harness.mjs";

const RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const HOLDERS = 20;
const ROUNDS = 5;

/** Each of many holders reads, waits and writes a counter under the lock: any overlap loses an increment. */
async function contended(key, withLock) {
  let inside = 0;
  const clients = numbers(HOLDERS).map(() => new Redis(connection));
  await Promise.all(
    clients.map(async (client) => {
      for (const _ of numbers(ROUNDS)) {
        await withLock(client, async () => {
          inside += 1;
          assert.equal(inside, 1, "two holders at once");
          const value = Number(await client.get(key));
          await new Promise((resolve) => setImmediate(resolve));
          await client.set(key, value + 1);
          inside -= 1;
        });
      }
    }),
  );
  assert.equal(await clients[0].get(key), String(HOLDERS * ROUNDS));
  for (const client of clients) client.disconnect();
}

async function library() {
  await contended("redlock:counter", async (client, work) => {
    const redlock = new Redlock([client], { retryCount: -1, retryDelay: 10, retryJitter: 10 });
    const lock = await redlock.lock("redlock:lock", 30_000);
    await work();
    await lock.unlock();
  });
}

async function extended() {
  const client = new Redis(connection);
  const redlock = new Redlock([client], { retryCount: 0 });
  const lock = await redlock.lock("redlock:extended", 20_000);
  await lock.extend(90_000);
  assert.ok((await client.pttl("redlock:extended")) > 20_000);
  await assert.rejects(redlock.lock("redlock:extended", 1000), /attempts to lock/);
  await lock.unlock();
  assert.equal(await client.exists("redlock:extended"), 0);
  client.disconnect();
}

async function writtenOut() {
  await contended("own:counter", async (client, work) => {
    const token = randomUUID();
    while ((await client.set("own:lock", token, "PX", 30_000, "NX")) !== "OK") {
      await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 10));
    }
    await work();
    assert.equal(await client.eval(RELEASE, 1, "own:lock", token), 1);
    assert.equal(await client.eval(RELEASE, 1, "own:lock", token), 0, "released once already");
  });
}

await run({ library, extended, writtenOut });
