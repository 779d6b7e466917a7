// Two socket.io servers that reach each other's clients by Redis: `node socketio.mjs ADAPTER`, where ADAPTER is pubsub,
// sharded (both of @socket.io/redis-adapter) or streams (@socket.io/redis-streams-adapter).
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import { Redis } from "ioredis5";
import { createClient } from "redis6";
import { Server } from "socket.io";
import { io } from "socket.io-client";
import { connection, host, numbers, run, socket as place, until } from "./harness.mjs";

const kind = process.argv[2];
const CLIENTS = 4; // at each server
const nodes = [];

async function adapter() {
  if (kind === "pubsub") {
    const publisher = new Redis(connection);
    return createAdapter(publisher, publisher.duplicate());
  }
  const client = createClient({ socket: place });
  client.on("error", (error) => console.error(error.message));
  await client.connect();
  if (kind === "streams") return createStreamsAdapter(client);
  const subscriber = client.duplicate();
  subscriber.on("error", (error) => console.error(error.message));
  await subscriber.connect();
  return createShardedAdapter(client, subscriber);
}

async function startNode(name) {
  const http = createServer();
  const server = new Server(http, { adapter: await adapter() });
  server.on("connection", (socket) => socket.on("join", (room, done) => Promise.resolve(socket.join(room)).then(done)));
  server.on("greet", (text, done) => done(`${name} got ${text}`));
  await new Promise((resolve) => http.listen(0, host, resolve));
  const clients = numbers(CLIENTS).map(() => {
    const socket = io(`http://${host}:${http.address().port}`, { transports: ["websocket"] });
    const received = [];
    for (const event of ["news", "room", "settled"]) socket.on(event, (value) => received.push([event, value]));
    socket.on("asked", (question, answer) => answer(question * 2));
    return { socket, received };
  });
  return { name, server, clients };
}

const everyClient = () => nodes.flatMap((node) => node.clients);
const forget = () => everyClient().forEach((client) => client.received.splice(0));

async function started() {
  for (const name of ["one", "two"]) nodes.push(await startNode(name));
  await until("all clients are connected", () => everyClient().every(({ socket }) => socket.connected));
  // Each server sees the other's clients once the adapters have found each other.
  for (const { server } of nodes) {
    await until("the servers see each other", async () => {
      const seen = await server.fetchSockets().catch(() => []);
      return seen.length === 2 * CLIENTS;
    });
  }
}

async function broadcasts() {
  forget();
  for (const n of numbers(100)) nodes[n % 2].server.emit("news", n);
  const all = numbers(100);
  await until("all broadcasts", () => everyClient().every(({ received }) => received.length >= 100));
  for (const { received } of everyClient()) {
    // From one server they keep their order; each arrives once.
    const values = received.map(([, value]) => value);
    assert.deepEqual([...values].sort((a, b) => a - b), all);
    for (const odd of [0, 1]) assert.deepEqual(values.filter((n) => n % 2 === odd), all.filter((n) => n % 2 === odd));
  }
}

async function rooms() {
  forget();
  const members = nodes.map((node) => node.clients[0]);
  for (const { socket } of members) await socket.emitWithAck("join", "blue");
  await until("both are seen in the room", async () => (await nodes[0].server.in("blue").fetchSockets()).length === 2);
  nodes[0].server.to("blue").emit("room", "from one");
  nodes[1].server.to("blue").emit("room", "from two");
  for (const { server } of nodes) server.emit("settled", true);
  await until("the end everywhere", () =>
    everyClient().every(({ received }) => received.filter(([event]) => event === "settled").length === 2),
  );
  for (const client of everyClient()) {
    const heard = client.received.filter(([event]) => event === "room").map(([, value]) => value);
    assert.deepEqual(heard.sort(), members.includes(client) ? ["from one", "from two"] : []);
  }
}

async function acknowledgements() {
  for (const { server } of nodes) {
    const answers = await server.timeout(10_000).emitWithAck("asked", 21);
    assert.deepEqual(answers, numbers(2 * CLIENTS).map(() => 42));
  }
}

async function betweenServers() {
  assert.deepEqual(await nodes[0].server.serverSideEmitWithAck("greet", "hello"), ["two got hello"]);
  assert.deepEqual(await nodes[1].server.serverSideEmitWithAck("greet", "hi"), ["one got hi"]);
}

await run({ started, broadcasts, rooms, acknowledgements, betweenServers });
