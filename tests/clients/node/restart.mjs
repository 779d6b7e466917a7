// ioredis clients at a server that is killed and comes back: `node restart.mjs BUSY IDLE`, started by runner/restart.py,
// which tells what is said between the two.
//
// With their defaults but for what would send a command twice or hold it back: whatever the library repeats would be
// counted against respool. The busy ones are version 6, which speaks RESP3 as redis-py does: those that speak RESP2 would
// take turns with them on the shared connections, and when it is not their turn the server owes them nothing. Of the idle
// ones half are version 5.
import { createInterface } from "node:readline";
import { Redis as Redis5 } from "ioredis5";
import { Redis as Redis6 } from "ioredis6";
import { connection, numbers, until } from "./harness.mjs";

const [BUSY, IDLE] = process.argv.slice(2).map(Number);
const PAUSE_MS = 20;
const WARM_ROUNDS = 5;
const SUCCESSES_TO_BE_SERVED = 10;
const OPTIONS = { autoResendUnfulfilledCommands: false, enableOfflineQueue: false, maxRetriesPerRequest: null };
// Texts of errors that say that the command did not run: Redis' own, and ioredis' of a client that is not connected.
const NOT_RUN = [/^LOADING /, /^Stream isn't writeable/];

const errors = new Map();
let stopping = false;

function connect(Redis) {
  const redis = new Redis({ ...connection, ...OPTIONS });
  redis.on("error", () => {}); // Told by the command that fails, or by the loss of the connection.
  return redis;
}

const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));

/** One client that goes through rounds of commands, one at a time, and knows what each reply may be. */
class BusyClient {
  constructor(n) {
    this.own = `restart:own:ioredis:${n}`;
    this.value = `restart:value:ioredis:${n}`;
    this.redis = connect(Redis6);
    this.redis.on("close", () => this.lost?.("connection lost"));
    this.rounds = 0;
    this.successes = []; // when, in epoch ms
    this.counters = { own: { acknowledged: [], unknown: 0 }, common: { acknowledged: [], unknown: 0 } };
    // What the own counter may stand at, and the own value be: more than one only after an unknown outcome.
    this.low = this.high = 0;
    this.values = new Set([null]);
    this.wrong = [];
  }

  /** `{ reply }`, or `{ ran: "no" }` or `{ ran: "unknown" }` for an error. */
  async attempt(...words) {
    if (this.redis.status !== "ready") await new Promise((resolve) => this.redis.once("ready", resolve));
    // A command whose connection is lost is never settled by ioredis once it does not resend.
    const lost = new Promise((_, reject) => (this.lost = (text) => reject(new Error(text))));
    try {
      const reply = await Promise.race([this.redis.call(...words), lost]);
      this.successes.push(Date.now());
      return { reply };
    } catch (error) {
      errors.set(error.message, (errors.get(error.message) ?? 0) + 1);
      return { ran: NOT_RUN.some((text) => text.test(error.message)) ? "no" : "unknown" };
    } finally {
      this.lost = undefined;
    }
  }

  expect(what, reply, right) {
    if (!right) this.wrong.push(`${what} = ${JSON.stringify(reply)} in round ${this.rounds}`);
  }

  async increment(counter, key) {
    const { reply, ran } = await this.attempt("INCR", key);
    if (ran === "unknown") counter.unknown += 1;
    if (reply !== undefined) counter.acknowledged.push(reply);
    return { reply, ran };
  }

  async countOwn() {
    const { reply, ran } = await this.increment(this.counters.own, this.own);
    if (ran === "unknown") this.high += 1;
    if (reply === undefined) return;
    this.expect(`INCR, ${this.low} to ${this.high} before,`, reply, reply > this.low && reply <= this.high + 1);
    this.low = this.high = reply;
  }

  async readOwn() {
    const { reply } = await this.attempt("GET", this.own);
    if (reply === undefined) return;
    const count = Number(reply);
    this.expect(`GET of ${this.low} to ${this.high}`, reply, count >= this.low && count <= this.high);
    this.low = this.high = count;
  }

  async writeAndReadValue() {
    const unique = `${this.value} in round ${this.rounds}`;
    const set = await this.attempt("SET", this.value, unique);
    if (set.reply !== undefined) this.expect("SET", set.reply, set.reply === "OK");
    if (set.reply !== undefined) this.values = new Set([unique]);
    if (set.ran === "unknown") this.values.add(unique);
    const { reply } = await this.attempt("GET", this.value);
    if (reply === undefined) return;
    this.expect(`GET of ${[...this.values].join(" or ")}`, reply, this.values.has(reply));
    this.values = new Set([reply]);
  }

  async work() {
    while (!stopping) {
      await this.countOwn();
      await this.increment(this.counters.common, "restart:common");
      await this.writeAndReadValue();
      await this.readOwn();
      this.rounds += 1;
      await pause();
    }
  }

  served(back) {
    return this.successes.at(-SUCCESSES_TO_BE_SERVED) >= back;
  }

  result(back) {
    const first = this.successes.find((time) => time >= back);
    return { key: this.own, ...this.counters, wrong: this.wrong, back_ms: first - back };
  }
}

/** One that says nothing, and only looks whether it is still the same connection at the end. */
class IdleClient {
  constructor(n) {
    this.name = `idle ${n}`;
    this.redis = connect(n % 2 ? Redis5 : Redis6);
    this.losses = [];
    for (const event of ["close", "end"]) this.redis.on(event, () => this.losses.push(event));
  }

  async settle() {
    await until(`${this.name} is ready`, () => this.redis.status === "ready");
    this.id = await this.redis.call("CLIENT", "ID");
    this.losses.splice(0);
  }

  async look() {
    const id = await this.redis.call("CLIENT", "ID").catch((error) => error.message);
    if (id !== this.id) this.losses.push(`CLIENT ID ${this.id}, then ${id}`);
  }
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (line) => process.stdout.write(`${line}\n`);

async function told(word) {
  const line = (await lines.next()).value ?? "";
  if (!line.startsWith(word)) throw new Error(`expected ${word}, got ${line}`);
  return line.slice(word.length);
}

const busy = numbers(BUSY).map((n) => new BusyClient(n));
const idle = numbers(IDLE).map((n) => new IdleClient(n));
await Promise.all(idle.map((client) => client.settle()));
const working = busy.map((client) => client.work());
await until("all clients are warm", () => busy.every((client) => client.rounds >= WARM_ROUNDS));
tell("READY");

const back = Number(await told("BACK "));
await until("all clients are served", () => busy.every((client) => client.served(back)));
tell("SERVED");

await told("STOP");
stopping = true;
await Promise.all(working);
await Promise.all(idle.map((client) => client.look()));
const result = {
  busy: busy.map((client) => client.result(back)),
  disconnected: idle.filter((client) => client.losses.length > 0).map((client) => `${client.name}: ${client.losses}`),
  errors: Object.fromEntries(errors),
};
process.stdout.write(`RESULT ${JSON.stringify(result)}\n`, () => process.exit(0));
