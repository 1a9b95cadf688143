// Owns: one attack on the tills' door, in a process of its own, until it is killed: the load of door-load.ts.
// Invariants: what the service closes is opened again, so that an attack lasts; it says `ready` once it is under way.
import { connect, type Socket } from 'node:net';
import { encodeRequest } from '#ipc-schema/envelope.ts';
import { RawPeer } from '#test/ipc/world.ts';
import { sale } from '#test/support/rig.ts';
import type { Attack, AttackOrder } from './door-load.ts';

const idleCount = 1_000;
const lorisCount = 200;
const deafCount = 4;
const greedyInFlight = 100;
const floodInFlight = 64;
const endlessBytes = 64 * 1024 * 1024;
const chunk = Buffer.alloc(64 * 1024, 0x61);
const redialMs = 100;
const dripMs = 1_000;

const sleep = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));

function dial(path: string): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => resolve(socket));
    socket.once('error', () => resolve(null));
    socket.on('error', () => undefined);
  });
}

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    if (socket.destroyed) resolve();
    else socket.once('close', () => resolve());
  });

/** Holds one connection open, for ever; `hold` may say something on it. */
async function keepOpen(path: string, hold: (socket: Socket) => void, onOpen: () => void): Promise<void> {
  for (;;) {
    const socket = await dial(path);
    if (socket !== null) {
      socket.resume();
      onOpen();
      hold(socket);
      await closed(socket);
    }
    await sleep(redialMs);
  }
}

/** The attack and a promise of its being under way. */
function many(count: number, path: string, hold: (socket: Socket) => void): Promise<void> {
  let open = 0;
  return new Promise((resolve) => {
    const onOpen = (): void => {
      open += 1;
      if (open === count) resolve();
    };
    for (let at = 0; at < count; at += 1) void keepOpen(path, hold, onOpen);
  });
}

async function known({ path, terminal, secret }: AttackOrder): Promise<RawPeer> {
  const peer = new RawPeer(path);
  await peer.authenticate(terminal, Buffer.from(secret, 'hex'));
  return peer;
}

/** Sends a frame that does not end, up to 64 MB, again and again. */
async function endless(order: AttackOrder): Promise<void> {
  for (;;) {
    const { socket } = await known(order);
    const end = closed(socket);
    for (let sent = 0; sent < endlessBytes && !socket.destroyed; sent += chunk.length) {
      if (!socket.write(chunk)) await Promise.race([end, new Promise((resolve) => socket.once('drain', resolve))]);
    }
    socket.destroy();
  }
}

/** Asks as much as it may, and reads nothing. */
async function deaf(order: AttackOrder): Promise<void> {
  for (;;) {
    const { socket } = await known(order);
    socket.pause();
    const end = closed(socket);
    for (let id = 0; !socket.destroyed && id < 100_000; id += 1) {
      if (!socket.write(encodeRequest(id, 'service.status', {}))) await Promise.race([end, sleep(dripMs)]);
    }
    socket.destroy();
  }
}

/** As many sales on their way as one connection may have. */
async function greedy(order: AttackOrder): Promise<void> {
  const peer = await known(order);
  let next = 0;
  const one = async (): Promise<void> => {
    for (;;) {
      const before = peer.messages.length;
      peer.request(next, 'invoice.issue', sale(`${order.terminal}-${process.pid}-${next++}`));
      await peer.until(() => peer.messages.length > before || peer.closed, 60_000);
      if (peer.messages.length > 10_000) peer.messages.length = 0;
    }
  };
  await Promise.all(Array.from({ length: greedyInFlight }, one));
}

async function flood({ path }: AttackOrder): Promise<void> {
  for (;;) (await dial(path))?.destroy();
}

const attacks: Readonly<Record<Attack, (order: AttackOrder) => Promise<unknown>>> = {
  idle: ({ path }) => many(idleCount, path, () => undefined),
  loris: ({ path }) =>
    many(lorisCount, path, (socket) => {
      const drip = setInterval(() => socket.write('{'), dripMs);
      socket.once('close', () => clearInterval(drip));
    }),
  endless: async (order) => void endless(order),
  deaf: async (order) => {
    for (let at = 0; at < deafCount; at += 1) void deaf(order);
  },
  greedy: async (order) => void greedy(order),
  flood: async (order) => {
    for (let at = 0; at < floodInFlight; at += 1) void flood(order);
  },
};

process.on('message', (order: AttackOrder) => {
  void attacks[order.attack](order)
    .then(() => sleep(redialMs))
    .then(() => process.send?.('ready'));
});
process.on('disconnect', () => process.exit(0));
