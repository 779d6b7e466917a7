// BullMQ, many small queues: `node bullmq-queues.mjs PACKAGE`. 30 queues with 5 workers each, every one of them blocked
// on the key of its own queue most of the time.
import assert from "node:assert/strict";
import { Redis } from "ioredis5";
import { connection, numbers, run, sorted, until } from "./harness.mjs";

const { Queue, Worker } = await import(process.argv[2]);
const [QUEUES, WORKERS, JOBS] = [30, 5, 10];

const ran = numbers(QUEUES).map(() => []);
const queues = numbers(QUEUES).map((q) => new Queue(`queue-${q}`, { connection }));
const workers = numbers(QUEUES * WORKERS).map((n) => {
  const q = n % QUEUES;
  return new Worker(`queue-${q}`, async (job) => ran[q].push(job.data.n), { connection });
});
for (const client of [...queues, ...workers]) client.on("error", (error) => console.error(error.message));

async function started() {
  await Promise.all([...queues, ...workers].map((client) => client.waitUntilReady()));
}

async function eachWaitingWorkerIsWoken() {
  const watcher = new Redis(connection);
  const blocked = async () => (await watcher.client("LIST")).split("\n").filter((line) => / cmd=bzpopmin /.test(line)).length;
  await until("all workers are blocked", async () => (await blocked()) === QUEUES * WORKERS);
  for (const n of numbers(JOBS)) {
    await Promise.all(queues.map((queue) => queue.add("job", { n })));
    await until(`job ${n} of each queue`, () => ran.every((jobs) => jobs.length === n + 1));
  }
  watcher.disconnect();
}

async function eachJobOnce() {
  // More at once than the workers of a queue take at a time.
  await Promise.all(queues.map((queue) => queue.addBulk(numbers(JOBS).map((n) => ({ name: "job", data: { n: JOBS + n } })))));
  await until("all jobs of all queues", () => ran.every((jobs) => jobs.length >= 2 * JOBS));
  for (const jobs of ran) assert.deepEqual(sorted(jobs), numbers(2 * JOBS));
  await until("all are marked completed", async () => {
    const counts = await Promise.all(queues.map((queue) => queue.getCompletedCount()));
    return counts.every((count) => count === 2 * JOBS);
  });
}

async function closed() {
  await Promise.all([...workers, ...queues].map((client) => client.close()));
}

await run({ started, eachWaitingWorkerIsWoken, eachJobOnce, closed });
