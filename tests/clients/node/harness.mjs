// What the Node scenarios share: where the server is, cases that run one after the other, and waiting for conditions.
//
// REDIS_PORT tells the port; with REDIS_CA (a file of PEM) it speaks TLS, verified against that authority alone.
//
// A scenario is a list of named cases. Each must say what it expects by `assert`; the runner compares the names of the
// cases that passed directly and through respool, so that none can fall out unnoticed.

import { readFileSync } from "node:fs";

export const host = "127.0.0.1";
const port = Number(process.env.REDIS_PORT);
if (!Number.isInteger(port) || port <= 0) throw new Error("REDIS_PORT is not set: run these by scripts/clients");
const authority = process.env.REDIS_CA && { ca: readFileSync(process.env.REDIS_CA, "utf8") };

/** Where the server is, as ioredis and BullMQ take it. */
export const connection = authority ? { host, port, tls: authority } : { host, port };

/** The same as the `socket` of node-redis. */
export const socket = authority ? { host, port, tls: true, ...authority } : { host, port };

const CASE_DEADLINE_MS = 60_000;
const CONDITION_DEADLINE_MS = 30_000;

/** Waits until `condition` (which may be asynchronous) is true; fails, saying `what`, when it does not become so. */
export async function until(what, condition) {
  const deadline = performance.now() + CONDITION_DEADLINE_MS;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${CONDITION_DEADLINE_MS / 1000} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A promise of a value that arrives by a callback. */
export function arrival() {
  let resolve;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}

/** The numbers from 0 to `count - 1`. */
export const numbers = (count) => Array.from({ length: count }, (_, n) => n);

/** Sorted copies compare what may arrive in any order. */
export const sorted = (values) => [...values].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));

class Late extends Error {}

async function withDeadline(name, work) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Late(`case ${name} took over ${CASE_DEADLINE_MS / 1000} s`)), CASE_DEADLINE_MS);
  });
  try {
    await Promise.race([work(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Runs the cases of `list` (name to function) in order and ends the process: 0 when all passed. A failed case does not
 * keep the following ones from running; one that hangs does, since its clients would be in their way.
 */
export async function run(list) {
  const passed = [];
  const failed = [];
  const seconds = {};
  process.on("unhandledRejection", (reason) => {
    console.error("unhandled rejection:", reason);
    failed.push("unhandled rejection");
  });
  for (const [name, work] of Object.entries(list)) {
    const started = performance.now();
    try {
      await withDeadline(name, work);
      passed.push(name);
    } catch (error) {
      failed.push(name);
      console.error(`FAILED ${name}:`, error);
      if (error instanceof Late) break;
    }
    seconds[name] = (performance.now() - started) / 1000;
  }
  process.stdout.write(`RESULT ${JSON.stringify({ passed, failed, seconds })}\n`, () =>
    process.exit(failed.length === 0 && passed.length > 0 ? 0 : 1),
  );
}
