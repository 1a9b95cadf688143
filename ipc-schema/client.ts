// Owns: the client of the local API for Node: one connection with pipelined calls, made again when it is lost, and `issue`,
// which keeps the promise "exactly once" from the caller's side: same key, again and again, until the outcome is known.
// Invariants: nothing but hello and authenticate is sent before the service has proven that it knows the secret; a call whose
// connection is lost after it was sent ends in unknown-outcome, one that was never sent in busy; everything that waits has a maximum.
// The only file of the contract that opens a socket or reads a clock. node:net alone: no package is needed to talk to ukeyd.
import { randomBytes } from 'node:crypto';
import { connect as dial, type Socket } from 'node:net';
import { decodeFrame, type EventNotice, encodeRequest, type RequestId } from './envelope.ts';
import { asUkeyError, UkeyError, unreachable } from './errors.ts';
import { FrameCutter } from './frame-cutter.ts';
import { clientMac, macEquals, nonceBytes, serviceMac } from './handshake.ts';
import { issueUntilKnown } from './issue-again.ts';
import type { Issued } from './issued.ts';
import { jsonLimits } from './json.ts';
import type { EventName, MethodName, Params, Result, Role } from './methods.ts';

export interface ClientLimits {
  /** Calls open at once, and those waiting for a connection; one more is `busy`. */
  readonly openCalls: number;
  /** Requests not yet taken by the service; more is `busy`. */
  readonly outputBytes: number;
  readonly answerBytes: number;
  /** One attempt to connect, with hello and authenticate. */
  readonly connectWaitMs: number;
  readonly callWaitMs: number;
  readonly reconnectMinMs: number;
  readonly reconnectMaxMs: number;
}

export const defaultClientLimits: ClientLimits = {
  openCalls: 4_096,
  outputBytes: 16 * 1024 * 1024,
  answerBytes: 2 * 1024 * 1024,
  connectWaitMs: 5_000,
  callWaitMs: 30_000,
  reconnectMinMs: 50,
  reconnectMaxMs: 2_000,
};

export interface ConnectOptions {
  readonly socketPath: string;
  /** What this program is, as `acme-pos/4.2`. */
  readonly client: string;
  /** Both or neither: the till door asks for them, the admin door does not. */
  readonly terminal?: string | undefined;
  readonly secret?: Uint8Array | undefined;
  readonly onEvent?: ((notice: EventNotice) => void) | undefined;
  /** How long the first connection may be tried again; 0: once. */
  readonly waitMs?: number | undefined;
  readonly limits?: Partial<ClientLimits> | undefined;
}

export interface CallOptions {
  readonly timeoutMs?: number | undefined;
}

export interface IssueOptions {
  /** How long to go on asking. */
  readonly deadlineMs?: number | undefined;
  /** How long one attempt may take. */
  readonly attemptMs?: number | undefined;
}

export interface Client {
  /** What the service answered to the latest `hello`. */
  readonly service: Result<'hello'>;
  /** The terminal's role; null without a terminal. */
  readonly role: Role | null;
  /** Throws UkeyError: the service's codes, `unknown-outcome` (no answer), `busy` (never sent). */
  call<M extends MethodName>(method: M, params: Params<M>, options?: CallOptions): Promise<Result<M>>;
  /**
   * Issues exactly once: repeats with the same key while the answer is unknown-outcome, busy or another that says "repeat", and across lost
   * connections and restarts of the service. Throws a definite error, or unknown-outcome when the deadline came first: repeat it later with the same key.
   */
  issue(params: Params<'invoice.issue'>, options?: IssueOptions): Promise<Issued>;
  /** Events from now on, also over later connections; without names, all. */
  subscribe(events?: EventName[]): Promise<readonly EventName[]>;
  close(): void;
}

/** Connects, and authenticates where a terminal is named. Throws busy (nobody answers there), unauthenticated, or as the service refuses. */
export async function connect(options: ConnectOptions): Promise<Client> {
  const client = new ReconnectingClient(options);
  try {
    await client.open(options.waitMs ?? 0);
  } catch (thrown) {
    client.close();
    throw thrown;
  }
  return client;
}

const issueDeadlineMs = 120_000;
const clientVersion: Params<'hello'>['version'] = 1;

interface OpenCall {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: UkeyError) => void;
  readonly timer: NodeJS.Timeout;
}

/** One connection, from dialling to its loss. */
class Session {
  readonly #socket: Socket;
  readonly #limits: ClientLimits;
  readonly #onEvent: (notice: EventNotice) => void;
  readonly #cutter = new FrameCutter();
  readonly #open = new Map<RequestId, OpenCall>();
  #nextId = 1;
  #out = '';
  #lost: UkeyError | null = null;
  onLost: (() => void) | null = null;

  constructor(socketPath: string, limits: ClientLimits, onEvent: (notice: EventNotice) => void) {
    this.#limits = limits;
    this.#onEvent = onEvent;
    this.#socket = dial({ path: socketPath });
    this.#socket.on('data', (chunk: Buffer) => this.#read(chunk));
    this.#socket.on('error', (cause) => this.lose(`the connection failed: ${cause.message}`, cause));
    this.#socket.on('close', () => this.lose('the connection was closed'));
  }

  get isLost(): boolean {
    return this.#lost !== null;
  }

  connected(maxMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.lose('no connection in time'), maxMs);
      this.#socket.once('connect', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#socket.once('close', () => {
        clearTimeout(timer);
        reject(
          new UkeyError('busy', 'the service cannot be reached', {
            action: 'Start the service, or check the socket path.',
            cause: this.#lost?.cause ?? this.#lost,
          }),
        );
      });
    });
  }

  request(method: string, params: object, timeoutMs: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#lost !== null) throw neverSent('the connection is lost', this.#lost);
      if (this.#open.size >= this.#limits.openCalls) throw neverSent('too many calls are open');
      if (this.#out.length + this.#socket.writableLength > this.#limits.outputBytes)
        throw neverSent('the service takes no more at this moment');
      const id = this.#nextId++;
      const frame = encodeRequest(id, method, params);
      // The service would refuse it and close the connection under all other calls.
      if (frame.length * 3 > jsonLimits.maxBytes && Buffer.byteLength(frame) > jsonLimits.maxBytes)
        throw new UkeyError('too-large', `the request has more than ${jsonLimits.maxBytes} bytes`);
      const timer = setTimeout(() => {
        this.#open.delete(id);
        reject(new UkeyError('unknown-outcome', `no answer within ${timeoutMs} ms`));
      }, timeoutMs);
      this.#open.set(id, { resolve, reject, timer });
      this.#write(frame);
    });
  }

  /** Calls made in one turn of the loop go out in one write. */
  #write(frame: string): void {
    if (this.#out === '') {
      process.nextTick(() => {
        const out = this.#out;
        this.#out = '';
        if (this.#socket.writable) this.#socket.write(out);
      });
    }
    this.#out += frame;
  }

  #read(chunk: Buffer): void {
    if (this.#lost !== null) return;
    const { answerBytes } = this.#limits;
    try {
      this.#cutter.push(chunk);
      for (let frame = this.#cutter.take(answerBytes); frame !== null; frame = this.#cutter.take(answerBytes)) this.#handle(frame);
    } catch (thrown) {
      this.lose('the service sent what is no answer', thrown);
    }
  }

  #handle(frame: Buffer): void {
    const message = decodeFrame(frame, { maxBytes: this.#limits.answerBytes, maxDepth: jsonLimits.maxDepth });
    switch (message.kind) {
      case 'answer':
        this.#take(message.id)?.resolve(message.result);
        return;
      case 'refusal':
        // Without an id: the reason why the service is about to close the connection.
        if (message.id === null) this.lose(message.error.message, message.error);
        else this.#take(message.id)?.reject(message.error);
        return;
      case 'event': {
        // Later, so that an exception of the callback is the callback's alone.
        const { notice } = message;
        queueMicrotask(() => this.#onEvent(notice));
        return;
      }
      case 'request':
        throw new UkeyError('invalid-request', 'a service sends no requests');
      case 'malformed':
        throw message.error;
      default:
        unreachable(message);
    }
  }

  /** null: it has timed out already. */
  #take(id: RequestId): OpenCall | null {
    const call = this.#open.get(id);
    if (call === undefined) return null;
    this.#open.delete(id);
    clearTimeout(call.timer);
    return call;
  }

  /** Ends it: every open call has an unknown outcome from here on. */
  lose(why: string, cause?: unknown): void {
    if (this.#lost !== null) return;
    this.#lost = new UkeyError('unknown-outcome', why, { cause });
    this.#socket.destroy();
    for (const id of [...this.#open.keys()]) this.#take(id)?.reject(this.#lost);
    this.onLost?.();
  }
}

class ReconnectingClient implements Client {
  readonly #options: ConnectOptions;
  readonly #limits: ClientLimits;
  #session: Session | null = null;
  #connecting: Promise<Session> | null = null;
  #waiting = 0;
  #events: EventName[] | null = null;
  #service: Result<'hello'> | null = null;
  #role: Role | null = null;
  #closed = false;
  /** Ends every pause, at close. */
  readonly #wakers = new Set<() => void>();

  constructor(options: ConnectOptions) {
    if ((options.terminal === undefined) !== (options.secret === undefined))
      throw new UkeyError('invalid-request', 'a terminal needs its secret, and a secret its terminal', { field: 'terminal' });
    this.#options = options;
    this.#limits = { ...defaultClientLimits, ...options.limits };
  }

  get service(): Result<'hello'> {
    if (this.#service === null) throw new UkeyError('internal', 'not connected yet');
    return this.#service;
  }

  get role(): Role | null {
    return this.#role;
  }

  async open(waitMs: number): Promise<void> {
    await this.#connected(waitMs > 0 ? performance.now() + waitMs : Number.POSITIVE_INFINITY, waitMs > 0);
  }

  async call<M extends MethodName>(
    method: M,
    params: Params<M>,
    { timeoutMs = this.#limits.callWaitMs }: CallOptions = {},
  ): Promise<Result<M>> {
    const session = this.#session;
    if (session !== null) return (await session.request(method, params, timeoutMs)) as Result<M>;
    const endMs = performance.now() + timeoutMs;
    const later = await this.#connected(endMs, true);
    return (await later.request(method, params, Math.max(1, endMs - performance.now()))) as Result<M>;
  }

  async issue(
    params: Params<'invoice.issue'>,
    { deadlineMs = issueDeadlineMs, attemptMs = this.#limits.callWaitMs }: IssueOptions = {},
  ): Promise<Issued> {
    return issueUntilKnown({
      attempt: (timeoutMs) => this.call('invoice.issue', params, { timeoutMs }),
      attemptMs,
      deadlineMs,
      nowMs: () => performance.now(),
      sleep: (waitMs) => this.#sleep(waitMs),
      isOver: () => this.#closed,
      random: Math.random,
    });
  }

  async subscribe(events?: EventName[]): Promise<readonly EventName[]> {
    const result = await this.call('events.subscribe', events === undefined ? {} : { events });
    this.#events = result.events;
    return result.events;
  }

  close(): void {
    this.#closed = true;
    this.#session?.lose('the client was closed');
    this.#session = null;
    for (const wake of this.#wakers) wake();
  }

  /** The session there is, or the one being made, until `endMs`. */
  async #connected(endMs: number, repeat: boolean): Promise<Session> {
    if (this.#session !== null) return this.#session;
    if (this.#closed) throw new UkeyError('invalid-request', 'the client is closed');
    if (this.#waiting >= this.#limits.openCalls) throw neverSent('too many calls wait for a connection');
    this.#connecting ??= this.#connect(repeat).finally(() => {
      this.#connecting = null;
    });
    this.#waiting++;
    let timer: NodeJS.Timeout | undefined;
    try {
      const tooLate = new Promise<never>((_, reject) => {
        if (Number.isFinite(endMs))
          timer = setTimeout(() => reject(neverSent('the service cannot be reached')), Math.max(1, endMs - performance.now()));
      });
      return await Promise.race([this.#connecting, tooLate]);
    } finally {
      clearTimeout(timer);
      this.#waiting--;
    }
  }

  async #connect(repeat: boolean): Promise<Session> {
    for (let waitMs = this.#limits.reconnectMinMs; ; waitMs = Math.min(waitMs * 2, this.#limits.reconnectMaxMs)) {
      const session = new Session(this.#options.socketPath, this.#limits, (notice) => this.#options.onEvent?.(notice));
      try {
        await this.#introduce(session);
        if (this.#closed) throw new UkeyError('invalid-request', 'the client is closed');
        this.#session = session;
        session.onLost = () => this.#reconnect();
        if (session.isLost) this.#session = null;
        else return session;
      } catch (thrown) {
        session.lose('the introduction failed');
        const error = beforeAnyCall(thrown);
        if (!repeat || error.code !== 'busy') throw error;
      }
      await this.#sleep(jittered(waitMs));
      if (this.#closed) throw new UkeyError('invalid-request', 'the client is closed');
    }
  }

  /** Lost: made again at once, for the events' sake; who calls meanwhile waits for it. */
  #reconnect(): void {
    this.#session = null;
    if (this.#closed) return;
    // A failure that repeating cannot cure (a removed terminal) is told to the next call, which tries afresh.
    this.#connected(Number.POSITIVE_INFINITY, true).catch(() => undefined);
  }

  async #introduce(session: Session): Promise<void> {
    const waitMs = this.#limits.connectWaitMs;
    const { terminal, secret, client } = this.#options;
    await session.connected(waitMs);
    const hello = (await session.request('hello', { version: clientVersion, client }, waitMs)) as Result<'hello'>;
    if (terminal !== undefined && secret !== undefined) {
      const handshake = { challenge: hello.challenge, nonce: randomBytes(nonceBytes).toString('hex'), terminal };
      const proof = { terminal, nonce: handshake.nonce, mac: clientMac(secret, handshake) };
      const answer = (await session.request('authenticate', proof, waitMs)) as Result<'authenticate'>;
      if (!macEquals(serviceMac(secret, handshake), answer.mac))
        throw new UkeyError('unauthenticated', 'who answers on this socket does not know the secret: it is not the service');
      this.#role = answer.role;
    }
    if (this.#events !== null) await session.request('events.subscribe', { events: this.#events }, waitMs);
    this.#service = hello;
  }

  #sleep(waitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#wakers.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, waitMs);
      this.#wakers.add(wake);
    });
  }
}

/** Before the introduction has ended no request can have been taken: whatever is unclear about it, nothing was issued. */
function beforeAnyCall(thrown: unknown): UkeyError {
  const error = asUkeyError(thrown);
  if (error.code !== 'unknown-outcome') return error;
  return error.cause instanceof UkeyError ? error.cause : neverSent(error.message, error);
}

function neverSent(text: string, cause?: unknown): UkeyError {
  return new UkeyError('busy', text, { cause });
}

function jittered(waitMs: number): number {
  return waitMs * (0.5 + Math.random() / 2);
}
