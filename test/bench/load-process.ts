// Owns: the tills of the benchmarks, in a process of their own: connections, requests on their way, the time that each took.
// Invariants: one request on its way per connection; the same client and the same bytes for an echo and for the service, so that both are measured
// alike; a refusal is counted by its code and never hidden.
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import process from 'node:process';
import { decodeFrame, encodeRequest, frameEnd } from '#ipc-schema/envelope.ts';
import { unreachable } from '#ipc-schema/errors.ts';
import { clientMac, nonceBytes } from '#ipc-schema/handshake.ts';
import type { Asked, Order, Sent, Till, Told } from './messages.ts';

const answerLimits = { maxBytes: 4 * 1024 * 1024, maxDepth: 64 };
const errorMark = Buffer.from('"error":');
/** An answer's kind stands in front. */
const headBytes = 96;
const startRetryMs = 2;

class Connection {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #onAnswer: (answer: Buffer[]) => void = () => undefined;
  #onLost: (error: Error) => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      if (chunk[chunk.length - 1] !== frameEnd) return;
      const answer = this.#chunks;
      this.#chunks = [];
      this.#onAnswer(answer);
    });
    socket.on('error', (error) => this.#onLost(error));
    socket.on('close', () => this.#onLost(new Error('the connection was closed')));
  }

  static async open(path: string, till: Till | null): Promise<Connection> {
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const connection = new Connection(socket);
    if (till !== null) await connection.#introduce(till);
    return connection;
  }

  close(): void {
    this.#onLost = () => undefined;
    this.#socket.destroy();
  }

  /** `onAnswer` is told of each answer from now on. */
  listen(onAnswer: (answer: Buffer[]) => void, onLost: (error: Error) => void): void {
    this.#onAnswer = onAnswer;
    this.#onLost = onLost;
  }

  send(frame: string): void {
    this.#socket.write(frame);
  }

  ask(frame: string): Promise<Buffer[]> {
    return new Promise((resolve, reject) => {
      this.listen(resolve, reject);
      this.send(frame);
    });
  }

  async #introduce({ terminal, secret }: Till): Promise<void> {
    const hello = resultOf(await this.ask(encodeRequest(1, 'hello', { version: 1, client: 'bench/1' })));
    const nonce = randomBytes(nonceBytes).toString('hex');
    const mac = clientMac(secret, { challenge: String(hello['challenge']), nonce, terminal });
    resultOf(await this.ask(encodeRequest(2, 'authenticate', { terminal, nonce, mac })));
  }
}

function resultOf(answer: readonly Buffer[]): Readonly<Record<string, unknown>> {
  const message = decodeFrame(Buffer.concat(answer).subarray(0, -1), answerLimits);
  if (message.kind === 'answer') return message.result as Readonly<Record<string, unknown>>;
  throw message.kind === 'refusal' || message.kind === 'malformed' ? message.error : new Error(`no answer but ${message.kind}`);
}

/** Null: it was done. */
function refusalOf(answer: readonly Buffer[]): string | null {
  if (answer[0]?.subarray(0, headBytes).includes(errorMark) !== true) return null;
  try {
    resultOf(answer);
    return null;
  } catch (thrown) {
    return thrown instanceof Error && 'code' in thrown ? String(thrown.code) : String(thrown);
  }
}

const pools = new Map<string, Connection[]>();
let requests: readonly string[] = [];
let underWay: { stop(): Promise<Sent> } | null = null;

interface Run {
  readonly tills: readonly Connection[];
  readonly count: number;
  readonly prefix: string;
  readonly pauseMs: number;
  readonly keep: boolean;
}

/** Closed loop; `stop` lets each till end what it has on its way. */
function run({ tills, count, prefix, pauseMs, keep }: Run): { readonly ended: Promise<Sent>; stop(): Promise<Sent> } {
  const latencies: number[] = [];
  const answeredAt: number[] = [];
  const failures: Record<string, number> = {};
  const kept: string[] = [];
  let left = count;
  let open = tills.length;
  const startMs = performance.now();
  const { promise, resolve } = Promise.withResolvers<Sent>();
  const rest = (): void => {
    open -= 1;
    if (open > 0) return;
    resolve({
      latenciesUs: Float64Array.from(latencies),
      atMs: Float64Array.from(answeredAt),
      elapsedMs: performance.now() - startMs,
      failures,
      documents: kept,
    });
  };
  const fail = (code: string): void => {
    failures[code] = (failures[code] ?? 0) + 1;
  };
  for (const till of tills) {
    let sentMs = 0;
    const next = (): void => {
      if (left <= 0) {
        rest();
        return;
      }
      left -= 1;
      const frame = `{"type":"ukey","data":{"jsonrpc":"2.0","id":1,"method":"invoice.issue","params":{"key":"${prefix}${left}",${requests[left % requests.length] ?? ''}}}\f`;
      sentMs = performance.now();
      till.send(frame);
    };
    till.listen(
      (answer) => {
        const nowMs = performance.now();
        latencies.push((nowMs - sentMs) * 1_000);
        answeredAt.push(performance.timeOrigin + nowMs);
        const refusal = refusalOf(answer);
        if (refusal !== null) fail(refusal);
        else if (keep) kept.push(...documentsIn(answer));
        if (pauseMs > 0) setTimeout(next, pauseMs);
        else next();
      },
      () => {
        fail('connection-lost');
        rest();
      },
    );
    next();
  }
  return {
    ended: promise,
    stop: () => {
      left = 0;
      return promise;
    },
  };
}

function documentsIn(answer: readonly Buffer[]): string[] {
  const message = decodeFrame(Buffer.concat(answer).subarray(0, -1), answerLimits);
  if (message.kind !== 'answer') return [];
  const { document } = message.result as { readonly document?: unknown };
  return typeof document === 'string' ? [document] : [];
}

/** The clock is the system's, shared with the process that started the service. */
async function first(path: string, till: Till, prefix: string): Promise<Sent> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const connection = await Connection.open(path, till);
      pools.set('first', [connection]);
      const sent = await run({ tills: [connection], count: 1, prefix: `${prefix}${attempt}-`, pauseMs: 0, keep: false }).ended;
      connection.close();
      if (Object.keys(sent.failures).length === 0) return sent;
    } catch {
      // Nobody listens yet, or the service is not ready to know a till: again.
    }
    await new Promise((resolve) => setTimeout(resolve, startRetryMs));
  }
}

function poolOf(name: string, tills: number): Connection[] {
  const pool = pools.get(name)?.slice(0, tills) ?? [];
  if (pool.length < tills) throw new Error(`the pool ${name} has fewer than ${tills} connections`);
  return pool;
}

async function perform(order: Order): Promise<Sent | null> {
  switch (order.kind) {
    case 'requests':
      requests = order.requests;
      return null;
    case 'open':
      pools.set(order.pool, []);
      for (let at = 0; at < order.count; at += 1) pools.get(order.pool)?.push(await Connection.open(order.path, order.till));
      return null;
    case 'shut':
      for (const connection of pools.get(order.pool) ?? []) connection.close();
      pools.delete(order.pool);
      return null;
    case 'run':
      return await run({ ...order, tills: poolOf(order.pool, order.tills), pauseMs: order.pauseMs ?? 0, keep: order.keep ?? false }).ended;
    case 'begin':
      underWay = run({ ...order, tills: poolOf(order.pool, order.tills), count: Number.MAX_SAFE_INTEGER, keep: false });
      return null;
    case 'end': {
      const sent = (await underWay?.stop()) ?? null;
      underWay = null;
      return sent;
    }
    case 'first':
      return await first(order.path, order.till, order.prefix);
    default:
      return unreachable(order);
  }
}

process.on('disconnect', () => process.exit(0));
process.on('message', ({ id, order }: Asked) => {
  perform(order).then(
    (sent) => process.send?.({ id, sent } satisfies Told),
    (thrown: unknown) =>
      process.send?.({ id, failed: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown) } satisfies Told),
  );
});
