// Owns: the service's side of the local API: two doors, and the way of a request: who asks, may they, is it well-formed,
// the handler, the answer.
// Invariants: what is not in the method table does not exist; a handler sees only checked parameters of a caller that is
// allowed; whatever a handler throws becomes an answer with a code, and what is not ours to tell is told to the log alone.
// One caller cannot keep others from being served: turns go round, and each terminal has its own maximum of open requests.
// Must not: know what an invoice is.

import type { Clock } from '#ground/clock.ts';
import { type Caller, type DoorKind, type FindTerminal, Introduction } from '#ipc/caller.ts';
import { type Asked, Connection, type ConnectionHost } from '#ipc/connection.ts';
import { defaultLimits, type Limits } from '#ipc/limits.ts';
import { type Door, openDoor, type Wire } from '#ipc/listen.ts';
import type { Report } from '#ipc/report.ts';
import { Rota } from '#ipc/rota.ts';
import { type EventNotice, encodeEvent, type Request } from '#ipc-schema/envelope.ts';
import { type ErrorCode, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { eventNames, type Params, protocolVersion, type Result, type Role } from '#ipc-schema/methods.ts';
import { check, type z } from '#ipc-schema/schema.ts';
import type { Standing } from '#ipc-schema/status.ts';

/** What serving needs of a method; the table is ipc-schema/methods.ts. */
export interface ServedMethod {
  readonly roles: readonly Role[];
  readonly params: z.ZodType;
  readonly result: z.ZodType;
}
export type ServedMethods = Readonly<Record<string, ServedMethod>> & { readonly hello: ServedMethod; readonly authenticate: ServedMethod };

/** These are answered here; every other method of the table needs a handler. */
type OwnMethod = 'hello' | 'authenticate' | 'events.subscribe';

/** One errand per method. Throws UkeyError; anything else is answered `internal`. */
export type Handlers<M extends ServedMethods> = {
  readonly [N in Exclude<keyof M, OwnMethod>]: (caller: Caller, params: z.output<M[N]['params']>) => Promise<z.input<M[N]['result']>>;
};
type AnyHandler = (caller: Caller, params: unknown) => Promise<unknown>;

export interface ServeOptions<M extends ServedMethods> {
  readonly methods: M;
  readonly handlers: Handlers<M>;
  /** Group `group` (tills, ERP): mode 0660. */
  readonly tillSocketPath: string;
  /** The service's user alone: mode 0600. */
  readonly adminSocketPath: string;
  readonly group?: string | undefined;
  readonly findTerminal: FindTerminal;
  /** For the answer to `hello`. */
  readonly standing: () => Standing;
  /** `ukeyd/1.2.3` */
  readonly serverName: string;
  readonly clock: Clock;
  readonly randomBytes: (lengthBytes: number) => Uint8Array;
  readonly report: Report;
  /** Told of each answer, before it leaves; must not throw. */
  readonly onAnswered?: ((answered: Answered) => void) | undefined;
  readonly limits?: Partial<Limits> | undefined;
  /** Tests: an answer that is not what its method promises becomes `internal`. */
  readonly checkResults?: boolean | undefined;
}

/** For figures and for the log: what was asked by whom, and how it went. */
export interface Answered {
  /** `unknown` for what is not in the table: what a caller sends stands in no log. */
  readonly method: string;
  /** The terminal's name, `admin`, or `a stranger`. */
  readonly caller: string;
  /** null: answered, not refused. */
  readonly code: ErrorCode | null;
  readonly tookMs: number;
}

export interface Service {
  readonly tillSocketPath: string;
  readonly adminSocketPath: string;
  readonly connectionCount: number;
  /** To every connection that subscribed to it. Never waits and never throws for a slow reader. */
  publish(notice: EventNotice): void;
  /** Takes no new connection or request, lets those in flight end (closeWaitMs at most), then closes everything. */
  close(): Promise<void>;
}

/** Opens both doors. Throws as openDoor; then neither is open. */
export async function serve<M extends ServedMethods>(options: ServeOptions<M>): Promise<Service> {
  // The one place where the table's types end: from here on a handler takes what its method's schema has let through.
  const handlers = options.handlers as unknown as Readonly<Record<string, AnyHandler>>;
  for (const method of Object.keys(options.methods)) {
    if (!isOwn(method) && typeof handlers[method] !== 'function') throw new UkeyError('internal', `the method ${method} has no handler`);
  }
  return new Room({ ...options, handlers }).open();
}

const ownMethods: readonly string[] = ['hello', 'authenticate', 'events.subscribe'] satisfies OwnMethod[];
const isOwn = (method: string): boolean => ownMethods.includes(method);

const tillMode = 0o660;
const adminMode = 0o600;
/** node-ipc counts on its own and closes without a word: above our limit, so that ours speaks first. */
const spareConnections = 64;

type RoomOptions = Omit<ServeOptions<ServedMethods>, 'handlers'> & { readonly handlers: Readonly<Record<string, AnyHandler>> };

class Room implements ConnectionHost {
  readonly limits: Limits;
  readonly #options: RoomOptions;
  /** In the order of their opening. */
  readonly #connections: Readonly<Record<DoorKind, Set<Connection>>> = { till: new Set(), admin: new Set() };
  readonly #requests = new Tally();
  readonly #requestBytes = new Tally();
  readonly #terminalConnections = new Tally();
  readonly #doors: Door[] = [];
  readonly #rota: Rota;
  /** Names of events that somebody has asked for since the start. */
  readonly #subscribed = new Set<string>();
  #openRequests = 0;
  #opened = 0;
  #closedSinceSweep = 0;
  #whenIdle: (() => void) | null = null;
  #whenEmpty: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  constructor(options: RoomOptions) {
    this.#options = options;
    this.limits = { ...defaultLimits, ...options.limits };
    this.#rota = new Rota({ sliceMs: this.limits.turnsMs, nowMs: () => this.nowMs() });
  }

  async open(): Promise<Service> {
    const { tillSocketPath, adminSocketPath, group, report } = this.#options;
    try {
      await this.#openDoor('admin', adminSocketPath, adminMode, undefined, this.limits.adminConnections);
      await this.#openDoor('till', tillSocketPath, tillMode, group, this.limits.tillConnections);
    } catch (thrown) {
      await Promise.all(this.#doors.map((door) => door.close()));
      throw thrown;
    }
    const sweeper = setInterval(() => this.#sweep(), this.limits.sweepMs);
    sweeper.unref();
    report('info', 'listening', { tillSocketPath, adminSocketPath });
    const count = (): number => this.#connections.till.size + this.#connections.admin.size;
    return {
      tillSocketPath,
      adminSocketPath,
      get connectionCount() {
        return count();
      },
      publish: (notice) => this.#publish(notice),
      close: () => {
        clearInterval(sweeper);
        this.#closing ??= this.#close();
        return this.#closing;
      },
    };
  }

  async #openDoor(kind: DoorKind, path: string, mode: number, group: string | undefined, maxConnections: number): Promise<void> {
    const { report } = this.#options;
    const open = (wire: Wire): Connection => this.#welcome(kind, wire, maxConnections);
    this.#doors.push(await openDoor({ path, mode, group, maxConnections: maxConnections + spareConnections, open, report }));
  }

  // --- connections ---

  #welcome(kind: DoorKind, wire: Wire, maxConnections: number): Connection {
    const { findTerminal, randomBytes } = this.#options;
    this.#opened += 1;
    const connection = new Connection(this.#opened, wire, new Introduction({ door: kind, findTerminal, randomBytes }), this);
    const all = this.#connections[kind];
    if (all.size >= maxConnections) this.#makeRoom(all, connection);
    all.add(connection);
    return connection;
  }

  /** The stranger that has waited longest goes; where everybody is known, the newcomer. */
  #makeRoom(all: ReadonlySet<Connection>, newcomer: Connection): void {
    const busy = new UkeyError('busy', 'too many connections', { retryAfterMs: this.limits.busyRetryMs });
    for (const one of all) {
      if (!one.isStranger || one.isClosing) continue;
      one.evict(busy);
      return;
    }
    newcomer.evict(busy);
  }

  closed(connection: Connection, why: string | null): void {
    const terminal = connection.introduction.caller?.terminal;
    if (this.#connections.till.delete(connection)) {
      if (terminal !== undefined && terminal !== null) this.#terminalConnections.leave(terminal);
    } else {
      this.#connections.admin.delete(connection);
    }
    if (why !== null && ++this.#closedSinceSweep <= this.limits.reportsPerSweep) {
      this.#options.report('warn', 'a connection was closed', { why, caller: connection.introduction.caller?.label ?? 'a stranger' });
    }
    if (this.#everyone().length === 0) this.#whenEmpty?.();
  }

  nowMs(): number {
    return this.#options.clock.monotonicMs();
  }

  #sweep(): void {
    const unreported = this.#closedSinceSweep - this.limits.reportsPerSweep;
    if (unreported > 0) this.#options.report('warn', 'more connections were closed', { count: unreported });
    this.#closedSinceSweep = 0;
    const nowMs = this.nowMs();
    for (const connection of this.#everyone()) connection.sweep(nowMs);
  }

  #everyone(): Connection[] {
    return [...this.#connections.admin, ...this.#connections.till];
  }

  comes(connection: Connection): boolean {
    return this.#rota.comes(connection.group, connection);
  }

  awaitTurn(connection: Connection): void {
    this.#rota.waits(connection.group, connection);
  }

  #publish(notice: EventNotice): void {
    if (!this.#subscribed.has(notice.event)) return; // the usual case, once per document
    const frame = encodeEvent(notice);
    for (const connection of this.#everyone()) connection.sendEvent(notice, frame);
  }

  // --- requests ---

  dispatch(connection: Connection, request: Request, frameBytes: number): unknown {
    const { methods, handlers } = this.#options;
    const { introduction } = connection;
    const introduces = request.method === 'hello' || request.method === 'authenticate';
    // A stranger learns nothing, not even which methods there are.
    const caller = introduces ? introduction.caller : introduction.need();
    const method = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
    if (method === undefined) throw new UkeyError('unknown-method', 'there is no such method', { field: 'method' });
    if (caller !== null && !introduces && !caller.roles.some((role) => method.roles.includes(role))) {
      throw new UkeyError('forbidden', `${request.method} is not for the role ${caller.roles.join(', ')}`);
    }
    const params = check(method.params, request.params);
    if (isOwn(request.method)) return this.#answerOwn(connection, request.method as OwnMethod, params);
    // need() above has thrown for a stranger.
    const handler = handlers[request.method];
    if (handler === undefined || caller === null) throw new UkeyError('internal', 'a method without a handler');
    this.#begin(caller, frameBytes);
    try {
      return this.#checked(method, Promise.resolve(handler(caller, params)));
    } catch (thrown) {
      this.settled(connection, frameBytes);
      throw thrown;
    }
  }

  #answerOwn(connection: Connection, method: OwnMethod, params: unknown): unknown {
    const { introduction } = connection;
    switch (method) {
      case 'hello': {
        const challenge = introduction.hello((params as Params<'hello'>).client);
        const result: Result<'hello'> = {
          version: protocolVersion,
          server: this.#options.serverName,
          challenge,
          standing: this.#options.standing(),
        };
        return result;
      }
      case 'authenticate':
        return this.#authenticate(connection, params as Params<'authenticate'>);
      case 'events.subscribe': {
        const events = (params as Params<'events.subscribe'>).events ?? [...eventNames];
        connection.subscription = new Set(events);
        for (const event of events) this.#subscribed.add(event);
        return { events };
      }
      default:
        return unreachable(method);
    }
  }

  #authenticate(connection: Connection, params: Params<'authenticate'>): Result<'authenticate'> {
    const result = connection.introduction.authenticate(params);
    if (
      connection.introduction.caller?.door === 'till' &&
      this.#terminalConnections.enter(params.terminal) > this.limits.connectionsPerTerminal
    ) {
      connection.evict(new UkeyError('busy', 'too many connections of this terminal', { retryAfterMs: this.limits.busyRetryMs }));
    }
    return result;
  }

  /** Counts the request in, or throws busy. The admin door has so few connections that they are their own limit. */
  #begin(caller: Caller, frameBytes: number): void {
    const terminal = caller.door === 'till' ? caller.terminal : null;
    if (this.#openRequests >= this.limits.requestsInAll || (terminal !== null && this.#isFull(terminal)))
      throw new UkeyError('busy', 'too many requests are open', { retryAfterMs: this.limits.busyRetryMs });
    this.#openRequests++;
    if (terminal === null) return;
    this.#requests.enter(terminal);
    this.#requestBytes.enter(terminal, frameBytes);
  }

  #isFull(terminal: string): boolean {
    const { requestsPerTerminal, requestBytesPerTerminal } = this.limits;
    return this.#requests.count(terminal) >= requestsPerTerminal || this.#requestBytes.count(terminal) >= requestBytesPerTerminal;
  }

  settled(connection: Connection, frameBytes: number): void {
    const caller = connection.introduction.caller;
    if (caller?.door === 'till' && caller.terminal !== null) {
      this.#requests.leave(caller.terminal);
      this.#requestBytes.leave(caller.terminal, frameBytes);
    }
    if (--this.#openRequests === 0) this.#whenIdle?.();
  }

  #checked(method: ServedMethod, work: Promise<unknown>): Promise<unknown> {
    if (this.#options.checkResults !== true) return work;
    return work.then((result) => check(method.result, result, 'internal'));
  }

  /** Foreign exceptions may quote what a caller sent: their text goes nowhere, their place goes to the log. */
  disclose(thrown: unknown, method: string): UkeyError {
    if (thrown instanceof UkeyError && thrown.code !== 'internal') return thrown;
    const isForeign = !(thrown instanceof UkeyError) || (thrown.cause instanceof Error && thrown.cause.message === thrown.message);
    const fault = thrown instanceof UkeyError && isForeign ? thrown.cause : thrown;
    this.#options.report('error', 'a request ended in a fault', { method: this.#knownName(method), fault: faultOf(fault) });
    return isForeign ? new UkeyError('internal', 'a fault of the service') : thrown;
  }

  answered(connection: Connection, { method, sinceMs }: Asked, code: ErrorCode | null): void {
    const { onAnswered } = this.#options;
    if (onAnswered === undefined) return;
    const caller = connection.introduction.caller?.label ?? 'a stranger';
    onAnswered({ method: this.#knownName(method), caller, code, tookMs: this.nowMs() - sinceMs });
  }

  #knownName(method: string): string {
    return Object.hasOwn(this.#options.methods, method) ? method : 'unknown';
  }

  // --- end ---

  async #close(): Promise<void> {
    for (const door of this.#doors) door.stopAccepting();
    this.#rota.stop();
    for (const connection of this.#everyone()) connection.stopReading();
    // What has begun is answered: a till that hears nothing would have to ask again.
    if (this.#openRequests > 0) await within(this.limits.closeWaitMs, (done) => (this.#whenIdle = done));
    for (const connection of this.#everyone()) connection.finish();
    if (this.#everyone().length > 0) await within(this.limits.lingerMs, (done) => (this.#whenEmpty = done));
    await Promise.all(this.#doors.map((door) => door.close()));
  }
}

/** How many of something each name has. */
class Tally {
  readonly #counts = new Map<string, number>();

  count(name: string): number {
    return this.#counts.get(name) ?? 0;
  }

  enter(name: string, amount = 1): number {
    const count = this.count(name) + amount;
    this.#counts.set(name, count);
    return count;
  }

  leave(name: string, amount = 1): void {
    const count = this.count(name) - amount;
    if (count > 0) this.#counts.set(name, count);
    else this.#counts.delete(name);
  }
}

/** Resolves when `done` is called, or when the time is over. */
async function within(maxMs: number, start: (done: () => void) => void): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, maxMs);
    start(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Our own errors with their text, others by name and place. */
function faultOf(thrown: unknown): string {
  if (thrown instanceof UkeyError) return `${thrown.code}: ${thrown.message}`;
  if (!(thrown instanceof Error)) return typeof thrown;
  const places = (thrown.stack ?? '').split('\n').filter((line) => line.startsWith('    at '));
  return [thrown.name, ...places.slice(0, 5)].join('\n');
}
