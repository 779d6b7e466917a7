// BullMQ, one busy queue: `node bullmq-workers.mjs PACKAGE`. 20 workers in one process, each with the two connections
// that BullMQ gives it, one queue, one listener of events: 42 connections directly.
import assert from "node:assert/strict";
import { connection, numbers, run, sorted, until } from "./harness.mjs";

const { Queue, QueueEvents, Worker } = await import(process.argv[2]);
const queue = new Queue("busy", { connection });
const events = new QueueEvents("busy", { connection });
const JOBS = 500;

const ran = new Map();
const completed = [];
let early = 0; // jobs that only show whether events arrive
let earlySeen = 0;
const workers = numbers(20).map(
  () =>
    new Worker(
      "busy",
      async (job) => {
        if (job.name === "early") return "early";
        ran.set(job.data.n, (ran.get(job.data.n) ?? 0) + 1);
        return job.data.n * 2;
      },
      { connection },
    ),
);
for (const client of [queue, events, ...workers]) client.on("error", (error) => console.error(error.message));
events.on("completed", ({ returnvalue }) => {
  if (returnvalue === "early") earlySeen += 1;
  else completed.push(Number(returnvalue));
});

async function started() {
  await Promise.all([queue, events, ...workers].map((client) => client.waitUntilReady()));
  // Events from before its first read are not the listener's, and it does not tell when that is.
  await until("the first event", async () => {
    await queue.add("early", {});
    early += 1;
    return earlySeen > 0;
  });
}

async function eachJobOnce() {
  await queue.addBulk(numbers(JOBS).map((n) => ({ name: "job", data: { n } })));
  await until("an event for each job", () => completed.length >= JOBS);
  assert.deepEqual(sorted(completed), numbers(JOBS).map((n) => n * 2));
  assert.deepEqual(sorted(ran.keys()), numbers(JOBS));
  assert.ok([...ran.values()].every((times) => times === 1), "a job ran twice");
  const counts = await queue.getJobCounts();
  assert.equal(counts.completed, JOBS + early);
  assert.equal(counts.active + counts.waiting + counts.delayed + counts.failed, 0);
}

async function oneByOne() {
  // With idle workers: each job wakes one that is blocked.
  for (const n of numbers(50)) {
    const job = await queue.add("single", { n: JOBS + n });
    assert.equal(await job.waitUntilFinished(events), (JOBS + n) * 2);
  }
  assert.ok([...ran.values()].every((times) => times === 1), "a job ran twice");
}

async function closed() {
  await Promise.all(workers.map((worker) => worker.close()));
  await Promise.all([queue.close(), events.close()]);
}

await run({ started, eachJobOnce, oneByOne, closed });
