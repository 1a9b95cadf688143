// Owns: one running holder process as its parent sees it: calls out, answers in, deadlines, and its end.
// Invariants: every call ends, at the latest when the process is killed at a deadline; killing never waits for the process;
// a commit that was handed over and not refused by the process itself ends as unknown-outcome, because it may have been written.
// Must not: start a successor; parent.ts does, after `onExit`.
import type { ChildProcess } from 'node:child_process';
import type { Readable } from 'node:stream';
import { sealHashOf } from '#ipc-schema/batch.ts';
import { asUkeyError, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { isSameOpening, type Seen } from './anchor.ts';
import { Chatter } from './chatter.ts';
import type { HolderConfig } from './configuration.ts';
import type { BatchDraft, Commit, HolderState } from './holder.ts';
import { Lane } from './lane.ts';
import { type Answer, type CallBody, decodeError, type FromChild, isFromChild, pinsOf, type ToChild } from './messages.ts';
import { pinPipeOf, sendPins } from './pin-pipe.ts';
import { refusedCommit } from './sealer.ts';
import { spawnHolder } from './spawn.ts';

/** Allowances of the call at the head of its lane; a sync of 10 s is a slow stick, not a dead one. */
export const deadlinesMs = {
  start: 15_000,
  login: 30_000,
  logout: 15_000,
  pin: 30_000,
  provision: 120_000,
  format: 120_000,
  /** Copying a whole store, and its mirror's making. */
  restore: 3_600_000,
  seal: 10_000,
  sync: 20_000,
  read: 30_000,
  status: 10_000,
  close: 5_000,
  /** Without any sign of life while nothing is asked. */
  silence: 20_000,
} as const;

export type Deadlines = { readonly [Name in keyof typeof deadlinesMs]: number };

/** Calls on their way to one process, and batches beside them; the front has a handful of each. */
export const callsMax = 256;

/** Stands in the lane for the start itself: the first look at the token ends it. */
const startId = 0;
/** How long an end of the channel waits for the end of the process, or the other way round, to tell the better reason. */
const endingMs = 100;
/** Last words of a driver that died. */
const lastWordsMs = 200;

export interface LinkEvents {
  onState(state: HolderState): void;
  /** It failed and was killed, or died; its calls have ended. Called once, before onExit. */
  onDown(reason: string): void;
  /** The process is gone and with it its hold on the FLASH. */
  onExit(): void;
  onChatter(line: string): void;
}

interface Waiting {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: UkeyError) => void;
}

interface WaitingCommit {
  readonly batchIndex: number;
  /** Null: not sealed yet. */
  sealHash: Uint8Array | null;
  readonly sealed: PromiseWithResolvers<Uint8Array>;
  readonly durable: PromiseWithResolvers<void>;
}

export class Link {
  readonly #child: ChildProcess;
  readonly #events: LinkEvents;
  readonly #deadlines: Deadlines;
  /** The process's main thread: token calls. The devices' turns in Node's pool: syncs and reads. */
  readonly #tokenLane: Lane;
  readonly #deviceLane: Lane;
  readonly #calls = new Map<number, Waiting>();
  readonly #commits = new Map<number, WaitingCommit>();
  readonly #silence: NodeJS.Timeout;
  #nextId = 1;
  #down = false;
  #ending: string | null = null;
  #isGone = false;
  #heardCount = 0;
  /** The log that was opened last, where it ended then, and the newest batch since that is durable. */
  #opened: Seen | null;
  #lastDurable: Pick<WaitingCommit, 'batchIndex' | 'sealHash'> | null = null;

  /** `seen`: as the process before this one left it. */
  constructor(entry: URL, config: HolderConfig, seen: Seen | null, deadlines: Deadlines, events: LinkEvents) {
    this.#opened = seen;
    this.#events = events;
    this.#deadlines = deadlines;
    const onHung = (what: string): void => this.fail(`the holder process hangs in ${what}`);
    this.#tokenLane = new Lane(onHung);
    this.#deviceLane = new Lane(onHung);
    this.#silence = setTimeout(() => this.#silent(), deadlines.silence);
    this.#child = spawnHolder(entry);
    this.#child.on('message', (message) => this.#hear(message));
    this.#child.on('error', (error) => this.#broke(error));
    this.#child.on('exit', (code, signal) => this.#exited(`the holder process ended (${signal ?? code})`));
    this.#child.on('disconnect', () => this.#disconnected());
    const chatter = new Chatter(events.onChatter, () => performance.now());
    for (const stream of this.#streams()) stream.setEncoding('utf8').on('data', (text: string) => chatter.take(text));
    this.#tokenLane.begin(startId, 'start', deadlines.start);
    this.#send({ kind: 'configure', config, seen });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** How far the ledger is durable that was open last; null: none was. */
  get seen(): Seen | null {
    const { batchIndex, sealHash } = this.#lastDurable ?? { batchIndex: 0, sealHash: null };
    return this.#opened === null || sealHash === null ? this.#opened : { ...this.#opened, batchIndex, sealHash };
  }

  /** Resolves with the answer of the kind that belongs to the call, whose PINs are overwritten once they are handed over. */
  ask<Kind extends Answer['kind']>(
    expected: Kind,
    lane: 'token' | 'device',
    allowanceMs: number,
    body: CallBody,
  ): Promise<Extract<Answer, { kind: Kind }>> {
    const refusal = this.#refusal(this.#calls.size);
    if (refusal !== null) return Promise.reject(refusal);
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<Extract<Answer, { kind: Kind }>>();
    const isExpected = (answer: Answer): answer is Extract<Answer, { kind: Kind }> => answer.kind === expected;
    this.#calls.set(id, {
      resolve: (answer) => {
        if (isExpected(answer)) return resolve(answer);
        reject(new UkeyError('token-failed', `the holder process answered ${answer.kind} to ${body.kind}`));
      },
      reject,
    });
    (lane === 'token' ? this.#tokenLane : this.#deviceLane).begin(id, body.kind, allowanceMs);
    this.#send({ ...body, id });
    return promise;
  }

  commit(draft: BatchDraft): Commit {
    const refusal = this.#refusal(this.#commits.size);
    if (refusal !== null) return refusedCommit(refusal);
    const id = this.#nextId++;
    const { batchIndex } = draft;
    const waiting: WaitingCommit = { batchIndex, sealHash: null, sealed: Promise.withResolvers(), durable: Promise.withResolvers() };
    // Both tell the same error; whoever awaits only one of them must not die of the other.
    waiting.sealed.promise.catch(() => undefined);
    waiting.durable.promise.catch(() => undefined);
    this.#commits.set(id, waiting);
    this.#tokenLane.begin(id, 'a signature', this.#deadlines.seal);
    this.#send({ kind: 'commit', id, draft });
    return { sealed: waiting.sealed.promise, durable: waiting.durable.promise };
  }

  /** Ends all calls at once and kills the process; waits for nothing. */
  fail(reason: string): void {
    if (this.#down) return;
    this.#down = true;
    clearTimeout(this.#silence);
    this.#tokenLane.clear();
    this.#deviceLane.clear();
    this.#child.kill('SIGKILL');
    if (this.#child.connected) this.#child.disconnect();
    pinPipeOf(this.#child)?.destroy();
    const failed = new UkeyError('token-failed', reason);
    for (const call of this.#calls.values()) call.reject(failed);
    this.#calls.clear();
    const unknown = new UkeyError('unknown-outcome', `whether the batch is stored is not known: ${reason}`);
    for (const { sealed, durable } of this.#commits.values()) {
      sealed.reject(unknown);
      durable.reject(unknown);
    }
    this.#commits.clear();
    this.#events.onDown(reason);
  }

  #refusal(onTheirWay: number): UkeyError | null {
    if (this.#down || this.#ending !== null) return new UkeyError('token-failed', 'the holder process is being restarted');
    if (onTheirWay >= callsMax) return new UkeyError('busy', 'too many calls wait for the token', { retryAfterMs: 1_000 });
    return null;
  }

  #send(message: ToChild): void {
    sendPins(this.#child, pinsOf(message));
    // A failed send is followed by 'exit' or 'error', which end the call; the callback keeps it from being thrown as well.
    this.#child.send(message, () => undefined);
  }

  #silent(): void {
    // While something is asked, the lanes decide: a login may take long.
    if (this.#tokenLane.length > 0) {
      this.#silence.refresh();
      return;
    }
    const before = this.#heardCount;
    // As in the lanes: what lies unread in our own channel counts.
    setImmediate(() => {
      if (this.#heardCount === before) this.fail('the holder process gives no sign of life');
    });
  }

  #hear(message: unknown): void {
    if (this.#down) return;
    this.#heardCount += 1;
    this.#silence.refresh();
    if (!isFromChild(message)) {
      this.fail('the holder process sent a message of no known kind');
      return;
    }
    try {
      this.#take(message);
    } catch (thrown) {
      // The process holds a vendor's driver: whatever became of it must not become of the front.
      this.fail(`the holder process sent a message that makes no sense: ${asUkeyError(thrown).message}`);
    }
  }

  // ---- The end of the process. Its last messages may still lie in the channel when it is dead, and a channel may close before it.

  #broke(error: Error): void {
    this.fail(`the holder process cannot be used: ${error.message}`);
    if (this.#child.pid === undefined) this.#gone(); // never started: there will be no 'exit'
  }

  #exited(reason: string): void {
    this.#ending = reason;
    if (this.#child.connected) setTimeout(() => this.fail(reason), endingMs);
    else this.fail(reason);
    // A process that the driver started may hold these open for ever.
    setTimeout(() => {
      for (const stream of this.#streams()) stream.destroy();
    }, lastWordsMs);
    this.#gone();
  }

  #disconnected(): void {
    if (this.#ending !== null) {
      this.fail(this.#ending);
      return;
    }
    this.#ending = 'the holder process closed its channel';
    setTimeout(() => this.fail(this.#ending ?? ''), endingMs);
  }

  #gone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#events.onExit();
  }

  #streams(): Readable[] {
    return [this.#child.stdout, this.#child.stderr].filter((stream) => stream !== null);
  }

  #take(message: FromChild): void {
    switch (message.kind) {
      case 'alive':
        this.#tokenLane.end(startId);
        break;
      case 'state':
        this.#stateCame(message.state);
        break;
      case 'answer':
        this.#endCall(message.id, (call) => call.resolve(message.answer));
        break;
      case 'sealed':
        this.#tokenLane.end(message.id);
        this.#deviceLane.begin(message.id, 'a sync', this.#deadlines.sync);
        this.#sealed(message.id, message.sealBytes);
        break;
      case 'durable':
        this.#endCommit(message.id, (commit) => {
          this.#lastDurable = commit;
          commit.durable.resolve();
        });
        break;
      case 'refused':
        this.#refused(message.id, decodeError(message.error));
        break;
      default:
        unreachable(message);
    }
  }

  #stateCame(state: HolderState): void {
    // New facts about the same opening are none.
    if (state.kind === 'open' && (this.#opened === null || !isSameOpening(state.end, this.#opened))) {
      this.#opened = state.end;
      this.#lastDurable = null;
    }
    this.#events.onState(state);
  }

  #sealed(id: number, sealBytes: Uint8Array): void {
    const commit = this.#commits.get(id);
    if (commit === undefined) return;
    commit.sealHash = sealHashOf(sealBytes);
    commit.sealed.resolve(sealBytes);
  }

  #refused(id: number, error: UkeyError): void {
    this.#endCall(id, (call) => call.reject(error));
    this.#endCommit(id, ({ sealed, durable }) => {
      sealed.reject(error);
      durable.reject(error);
    });
  }

  #endCall(id: number, end: (call: Waiting) => void): void {
    const call = this.#calls.get(id);
    if (call === undefined) return;
    this.#calls.delete(id);
    this.#tokenLane.end(id);
    this.#deviceLane.end(id);
    end(call);
  }

  #endCommit(id: number, end: (commit: WaitingCommit) => void): void {
    const commit = this.#commits.get(id);
    if (commit === undefined) return;
    this.#commits.delete(id);
    this.#tokenLane.end(id);
    this.#deviceLane.end(id);
    end(commit);
  }
}
