// BullMQ, its kinds of jobs: `node bullmq-kinds.mjs PACKAGE`. Delayed, repeated, with retries, priorities, flows, events.
import assert from "node:assert/strict";
import { connection, numbers, run, until } from "./harness.mjs";

const { FlowProducer, Queue, QueueEvents, Worker } = await import(process.argv[2]);
const open = [];

function opened(client) {
  client.on("error", (error) => console.error(error.message));
  open.push(client);
  return client;
}

const closing = (work) => async () => {
  try {
    await work();
  } finally {
    await Promise.all(open.splice(0).map((client) => client.close()));
  }
};

async function events(name) {
  const listener = opened(new QueueEvents(name, { connection }));
  await listener.waitUntilReady();
  return listener;
}

const work = (name, processor, options = {}) => opened(new Worker(name, processor, { connection, ...options }));

async function delayed() {
  const queue = opened(new Queue("delayed", { connection }));
  const listener = await events("delayed");
  const early = [];
  work("delayed", async (job) => {
    const waited = Date.now() - job.timestamp;
    if (waited < job.opts.delay) early.push(waited);
    return job.data.n;
  });
  const jobs = await Promise.all(numbers(10).map((n) => queue.add("job", { n }, { delay: 20 * n + 50 })));
  assert.deepEqual(await Promise.all(jobs.map((job) => job.waitUntilFinished(listener))), numbers(10));
  assert.deepEqual(early, []);
}

async function repeated() {
  const queue = opened(new Queue("repeated", { connection }));
  const ran = [];
  await queue.upsertJobScheduler("every", { every: 60 }, { name: "tick", data: { n: 7 } });
  work("repeated", async (job) => ran.push(job.data.n));
  await until("five repetitions", () => ran.length >= 5);
  assert.equal((await queue.getJobSchedulers()).length, 1);
  assert.equal(await queue.removeJobScheduler("every"), true);
  assert.equal((await queue.getJobSchedulers()).length, 0);
  assert.ok(ran.every((n) => n === 7));
}

async function retried() {
  const queue = opened(new Queue("retried", { connection }));
  const listener = await events("retried");
  work("retried", async (job) => {
    if (job.attemptsMade < 2) throw new Error("not yet");
    return job.attemptsMade;
  });
  const job = await queue.add("job", {}, { attempts: 3, backoff: { type: "fixed", delay: 20 } });
  assert.equal(await job.waitUntilFinished(listener), 2);
  const hopeless = await queue.add("job", {}, { attempts: 1 });
  await assert.rejects(hopeless.waitUntilFinished(listener), /not yet/);
  assert.equal(await queue.getFailedCount(), 1);
}

async function prioritized() {
  const queue = opened(new Queue("prioritized", { connection }));
  await queue.pause();
  for (const priority of [3, 1, 2]) await queue.add("job", { priority }, { priority });
  const order = [];
  work("prioritized", async (job) => order.push(job.data.priority));
  await queue.resume();
  await until("all three", () => order.length === 3);
  assert.deepEqual(order, [1, 2, 3]);
}

async function flows() {
  const producer = opened(new FlowProducer({ connection }));
  const listener = await events("parents");
  work("children", async (job) => job.data.n * job.data.n);
  work("parents", async (job) => Object.values(await job.getChildrenValues()).reduce((sum, value) => sum + value, 0));
  const trees = await Promise.all(
    numbers(10).map((tree) =>
      producer.add({
        name: "parent",
        queueName: "parents",
        data: { tree },
        children: numbers(5).map((n) => ({ name: "child", queueName: "children", data: { n: tree + n } })),
      }),
    ),
  );
  const sums = await Promise.all(trees.map(({ job }) => job.waitUntilFinished(listener)));
  assert.deepEqual(sums, numbers(10).map((tree) => numbers(5).reduce((sum, n) => sum + (tree + n) ** 2, 0)));
}

async function eventsInOrder() {
  const queue = opened(new Queue("events", { connection }));
  const listener = await events("events");
  const seen = [];
  for (const name of ["added", "active", "progress", "completed"]) {
    listener.on(name, ({ jobId }) => seen.push(`${name} ${jobId}`));
  }
  work("events", async (job) => job.updateProgress(50));
  // Events from before its first read are not the listener's, and it does not tell when that is.
  await until("the first events", async () => {
    await queue.add("job", {});
    return seen.some((event) => event.startsWith("completed"));
  });
  await queue.add("job", {}, { jobId: "last" });
  await until("the last event", () => seen.includes("completed last"));
  const ofLast = seen.filter((event) => event.endsWith("last"));
  assert.deepEqual(ofLast, ["added last", "active last", "progress last", "completed last"]);
}

async function limited() {
  // A rate limit makes workers block with short timeouts instead of long ones.
  const queue = opened(new Queue("limited", { connection }));
  const ran = [];
  work("limited", async (job) => ran.push([job.data.n, Date.now()]), { limiter: { max: 5, duration: 200 } });
  await queue.addBulk(numbers(12).map((n) => ({ name: "job", data: { n } })));
  await until("all twelve", () => ran.length === 12);
  assert.deepEqual(ran.map(([n]) => n), numbers(12));
  assert.ok(ran.at(-1)[1] - ran[0][1] >= 200, "the limit did not hold anything back");
}

const cases = { delayed, repeated, retried, prioritized, flows, eventsInOrder, limited };
await run(Object.fromEntries(Object.entries(cases).map(([name, test]) => [name, closing(test)])));
