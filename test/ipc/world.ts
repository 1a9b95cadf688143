// Owns: what the tests of the socket share: a service with small methods on real sockets in a temporary directory, and a
// client that speaks raw bytes. Nothing here knows what an invoice is.
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect as dial, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '#ground/clock.ts';
import type { Caller, Terminal } from '#ipc/caller.ts';
import type { Limits } from '#ipc/limits.ts';
import { type Handlers, type Service, serve } from '#ipc/serve.ts';
import { type Client, type ConnectOptions, connect } from '#ipc-schema/client.ts';
import { decodeFrame, type Message } from '#ipc-schema/envelope.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { FrameCutter } from '#ipc-schema/frame-cutter.ts';
import { clientMac } from '#ipc-schema/handshake.ts';
import { methods as realMethods, roles } from '#ipc-schema/methods.ts';
import { z } from '#ipc-schema/schema.ts';

const anything = z.unknown();

/** The real introduction and events, and methods that do as little as possible. */
export const methods = {
  hello: realMethods.hello,
  authenticate: realMethods.authenticate,
  'events.subscribe': realMethods['events.subscribe'],
  'test.echo': { roles, params: z.strictObject({ value: anything.optional() }), result: z.strictObject({ value: anything }) },
  'test.who': { roles, params: z.strictObject({}), result: anything },
  'test.wait': { roles, params: z.strictObject({ waitMs: z.int(), bytes: z.int().optional() }), result: anything },
  'test.fail': { roles, params: z.strictObject({ how: z.string() }), result: anything },
  'test.admin': { roles: ['admin'], params: z.strictObject({}), result: anything },
  'test.number': { roles, params: z.strictObject({}), result: z.number() },
} as const;

export type Methods = typeof methods;

export const secret = Buffer.from('5ec7e7'.repeat(8), 'hex');
export const terminals = new Map<string, Terminal>();

export const handlers: Handlers<Methods> = {
  'test.echo': async (_caller, { value }) => ({ value: value ?? null }),
  'test.who': async (caller: Caller) => ({ ...caller, roles: [...caller.roles] }),
  'test.wait': async (_caller, { waitMs, bytes = 0 }) => {
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    return 'x'.repeat(bytes);
  },
  'test.fail': async (_caller, { how }) => {
    if (how === 'ukey') throw new UkeyError('store-full', 'full', { field: 'a.b', retryAfterMs: 7 });
    if (how === 'foreign') throw new TypeError('the PIN is 123456');
    if (how === 'nothing') throw undefined;
    if (how === 'unwritable')
      return {
        toJSON: () => {
          throw new Error('no');
        },
      } as never;
    return 1;
  },
  'test.admin': async () => 'ok',
  'test.number': async () => 'no number' as never,
};

export interface World {
  readonly dir: string;
  readonly till: string;
  readonly admin: string;
  readonly service: Service;
  readonly reports: { level: string; what: string; facts: unknown }[];
  /** Requests that were answered, whether or not the answers have been read; hello and authenticate are none. */
  answered(): number;
  client(options?: Partial<ConnectOptions>): Promise<Client>;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function temporaryDirectory(): Promise<{ dir: string; [Symbol.asyncDispose](): Promise<void> }> {
  const dir = await mkdtemp(join(tmpdir(), 'ukeyd-ipc-'));
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
}

export interface WorldOptions {
  readonly limits?: Partial<Limits>;
  readonly checkResults?: boolean;
  readonly dir?: string;
}

export async function openWorld({ limits, checkResults, dir }: WorldOptions = {}): Promise<World> {
  const temporary = dir === undefined ? await temporaryDirectory() : null;
  const root = dir ?? temporary?.dir ?? '';
  terminals.clear();
  for (const id of ['till-1', 'till-2', 'greedy']) terminals.set(id, { id, role: 'till', secret });
  terminals.set('gone', { id: 'gone', role: 'till', secret, disabled: true });
  const reports: World['reports'] = [];
  let answered = 0;
  const till = join(root, 'run', 'ukeyd.sock');
  const admin = join(root, 'run', 'ukeyd-admin.sock');
  const service = await serve({
    methods,
    handlers,
    tillSocketPath: till,
    adminSocketPath: admin,
    findTerminal: (id) => terminals.get(id) ?? null,
    standing: () => 'issuing-online',
    serverName: 'ukeyd/test',
    clock: systemClock,
    randomBytes,
    report: (level, what, facts) => reports.push({ level, what, facts }),
    limits,
    checkResults,
    onAnswered: ({ method }) => {
      if (method.startsWith('test.')) answered += 1;
    },
  });
  const clients: Client[] = [];
  return {
    dir: root,
    till,
    admin,
    service,
    reports,
    answered: () => answered,
    client: async (options = {}) => {
      const client = await connect({ socketPath: till, client: 'test/1', terminal: 'till-1', secret, ...options });
      clients.push(client);
      return client;
    },
    [Symbol.asyncDispose]: async () => {
      for (const client of clients) client.close();
      await service.close();
      await temporary?.[Symbol.asyncDispose]();
    },
  };
}

/** A peer that sends whatever bytes it is told and keeps what comes back. */
export class RawPeer {
  readonly socket: Socket;
  readonly messages: Message[] = [];
  readonly #cutter = new FrameCutter();
  #waiters: (() => void)[] = [];
  closed = false;

  constructor(path: string) {
    this.socket = dial({ path });
    this.socket.on('error', () => undefined);
    this.socket.on('data', (chunk: Buffer) => {
      this.#cutter.push(chunk);
      for (let frame = this.#cutter.take(16 << 20); frame !== null; frame = this.#cutter.take(16 << 20)) {
        this.messages.push(decodeFrame(frame, { maxBytes: 16 << 20, maxDepth: 32 }));
      }
      this.#changed();
    });
    this.socket.on('close', () => {
      this.closed = true;
      this.#changed();
    });
  }

  send(bytes: string | Uint8Array): void {
    this.socket.write(bytes);
  }

  request(id: number | string, method: string, params: unknown = {}): void {
    this.send(`${JSON.stringify({ type: 'ukey', data: { jsonrpc: '2.0', id, method, params } })}\f`);
  }

  /** The next message that has not been taken yet; throws after two seconds or at the end. */
  async next(maxMs = 2_000): Promise<Message> {
    await this.until(() => this.messages.length > 0 || this.closed, maxMs);
    const message = this.messages.shift();
    if (message === undefined) throw new Error('the connection ended without a message');
    return message;
  }

  async until(condition: () => boolean, maxMs = 2_000): Promise<void> {
    const endMs = performance.now() + maxMs;
    while (!condition()) {
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) throw new Error('what was waited for did not come');
      await new Promise<void>((resolve) => {
        // Not everything that is waited for shows on this connection.
        const timer = setTimeout(resolve, Math.min(leftMs, 10));
        this.#waiters.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  async authenticate(terminal = 'till-1', key: Uint8Array = secret): Promise<Message> {
    this.request('hello', 'hello', { version: 1, client: 'raw/1' });
    const answer = await this.next();
    const challenge = answer.kind === 'answer' ? (answer.result as { challenge: string }).challenge : '';
    const nonce = randomBytes(32).toString('hex');
    this.request('authenticate', 'authenticate', { terminal, nonce, mac: clientMac(key, { challenge, nonce, terminal }) });
    return this.next();
  }

  end(): void {
    this.socket.destroy();
  }

  #changed(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }
}

/** A call of one of this world's own methods, which the real table does not name. */
export function callTest(client: Client, method: keyof Methods, params: unknown = {}, timeoutMs?: number): Promise<unknown> {
  return client.call(method as 'service.status', params as Record<string, never>, timeoutMs === undefined ? {} : { timeoutMs });
}

/** The code that a promise is refused with; throws when it is not. */
export async function refusalOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (thrown) {
    if (thrown instanceof UkeyError) return thrown.code;
    throw thrown;
  }
  throw new Error('it was not refused');
}

/** Code of a refusal, or the kind of what came instead. */
export function codeOf(message: Message): string {
  return message.kind === 'refusal' || message.kind === 'malformed' ? message.error.code : message.kind;
}
