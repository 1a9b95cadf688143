// Owns: the Holder as the front has it: one holder process, started again when it hangs or dies.
// Invariants: never two processes for one token (a successor starts only after the old one is gone); a state is told in order; no call
// outlives its deadline; restarts are ever rarer while they do not help, and never stop. A restart loses the login, never a
// durable batch: what was under way is unknown-outcome, and the next mount knows.
// Must not: hold a PIN, read or write the FLASH, log in by itself (the front decides that).
import { systemClock } from '#ground/clock.ts';
import { Gate } from '#ground/gate.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { wipe } from '#token/pin.ts';
import type { TokenFacts } from '#token/token.ts';
import type { Seen } from './anchor.ts';
import type { HolderConfig } from './configuration.ts';
import type {
  BatchDraft,
  Carried,
  Commit,
  FormatRequest,
  Holder,
  HolderEvents,
  HolderState,
  HolderStatus,
  Mount,
  PackedBatch,
  PinChange,
  PinUnblock,
  ProvisionOptions,
  RestoreBegun,
  RestoreOptions,
  ResumeAnswer,
  ResumeStep,
  SegmentCheck,
  StoredBatch,
  SuccessionGrant,
} from './holder.ts';
import { type Deadlines, deadlinesMs, Link } from './link.ts';
import { type Answer, type CallBody, pinsOf } from './messages.ts';
import { unpackBatches } from './packed.ts';
import { refusedCommit } from './sealer.ts';
import { childEntry } from './spawn.ts';
import { whyNotOpen } from './state.ts';

/** Pause before a restart: the first, and the longest. It doubles while processes die young. */
export const restartFirstMs = 50;
export const restartLongestMs = 30_000;
/** A process that lived this long was healthy. */
const healthyMs = 60_000;
/** A killed process that is not gone after this hangs in the kernel, in its device. */
const killWaitMs = 2_000;
/** How long a caller of `status` waits for a fresh answer before it gets the last one. */
const statusPatienceMs = 10;
/** Reads on their way to the process, so that those who look things up stand before a commit for a moment only; and as many wait as may ask. */
const readsAtOnce = 4;
const readsWaitingMax = 8_192;
/** Room for writing a new image: the FLASH while formatting, a mirror whenever it is missing. */
const imageBytesPerMs = 10_000;

export interface ParentOptions {
  readonly config: HolderConfig;
  readonly events: HolderEvents;
  /** A line that the process or a vendor's driver printed, or why it was restarted. */
  onChatter(line: string): void;
  /** Another program than child.ts, for tests with faulty tokens. */
  readonly entry?: URL;
  readonly deadlines?: Partial<Deadlines>;
  /** The longest pause before a restart; default restartLongestMs. */
  readonly restartLongestMs?: number;
}

export interface ParentHolder extends Holder {
  /** Of the process that runs now, for logs and tests. */
  pid(): number | undefined;
}

/** Starts the holder process at once; the first state comes through `events`. */
export function startHolder(options: ParentOptions): ParentHolder {
  return new HolderParent(options);
}

class HolderParent implements ParentHolder {
  readonly #options: ParentOptions;
  readonly #deadlines: Deadlines;
  #state: HolderState = { kind: 'starting' };
  #link: Link | null = null;
  #startedMs = 0;
  #restartMs = restartFirstMs;
  #timer: NodeJS.Timeout | null = null;
  #status: HolderStatus | null = null;
  #asked: Promise<HolderStatus> | null = null;
  readonly #reads = new Gate({ atOnce: readsAtOnce, waitingMax: readsWaitingMax, busy: 'too many calls wait for the token' });
  /** What the processes before this one had counted, and how the last of them ended. */
  #before: Pick<HolderStatus, 'signatures' | 'signFailures' | 'restarts' | 'lastFailure' | 'selfTestAtMs'> = {
    ...{ signatures: 0, signFailures: 0, restarts: 0, lastFailure: null, selfTestAtMs: null },
  };
  /** How far the ledger was durable that the process before had open last. */
  #seen: Seen | null = null;
  #closing: Promise<void> | null = null;
  /** Of the newest process: its end. */
  #gone: Promise<void> = Promise.resolve();

  constructor(options: ParentOptions) {
    this.#options = options;
    this.#deadlines = { ...deadlinesMs, ...options.deadlines };
    this.#start();
  }

  pid(): number | undefined {
    return this.#link?.pid;
  }

  state(): HolderState {
    return this.#state;
  }

  async login(pin: Uint8Array, useLastTry: boolean): Promise<Mount> {
    const allowanceMs = this.#deadlines.login + this.#imagesMs();
    return (await this.#askWithPins('mount', allowanceMs, { kind: 'login', pin, useLastTry })).mount;
  }

  async logout(): Promise<void> {
    await this.#up().ask('done', 'token', this.#deadlines.logout, { kind: 'logout' });
  }

  async changePin(change: PinChange): Promise<TokenFacts> {
    return (await this.#askWithPins('facts', this.#deadlines.pin, { kind: 'changePin', change })).facts;
  }

  async unblockPin(unblock: PinUnblock): Promise<TokenFacts> {
    return (await this.#askWithPins('facts', this.#deadlines.pin, { kind: 'unblockPin', unblock })).facts;
  }

  async provision(options: ProvisionOptions): Promise<Uint8Array> {
    return (await this.#askWithPins('enrolment', this.#deadlines.provision, { kind: 'provision', options })).request;
  }

  async format(request: FormatRequest): Promise<Mount> {
    const allowanceMs = this.#deadlines.format + this.#imagesMs();
    return (await this.#up().ask('mount', 'token', allowanceMs, { kind: 'format', request })).mount;
  }

  async beginRestore(options: RestoreOptions): Promise<RestoreBegun> {
    return (await this.#askWithPins('restoreBegun', this.#deadlines.provision, { kind: 'beginRestore', options })).begun;
  }

  async unlockRestore(sealedDataKey: Uint8Array): Promise<Uint8Array> {
    const asked = this.#up().ask('enrolment', 'token', this.#deadlines.provision, { kind: 'unlockRestore', sealedDataKey });
    return (await asked).request;
  }

  async finishRestore(grant: SuccessionGrant | null): Promise<Mount> {
    return (await this.#up().ask('mount', 'token', this.#deadlines.restore, { kind: 'finishRestore', grant })).mount;
  }

  async openAgain(): Promise<Mount> {
    return (await this.#up().ask('mount', 'token', this.#deadlines.login + this.#imagesMs(), { kind: 'openAgain' })).mount;
  }

  commit(batch: BatchDraft): Commit {
    // Refused here: nothing was handed over, so nothing was written.
    if (this.#link === null || this.#state.kind !== 'open') return refusedCommit(whyNotOpen(this.#state));
    return this.#link.commit(batch);
  }

  async requestRenewal(certificateHash: Uint8Array): Promise<Uint8Array> {
    const asked = this.#up().ask('enrolment', 'token', this.#deadlines.seal, { kind: 'requestRenewal', certificateHash });
    return (await asked).request;
  }

  async read(fromBatch: number, maxBytes: number): Promise<StoredBatch[]> {
    return await unpackBatches(await this.readPacked(fromBatch, maxBytes));
  }

  async readPacked(fromBatch: number, maxBytes: number): Promise<PackedBatch[]> {
    return await this.#reads.pass(async () => {
      return (await this.#up().ask('batches', 'device', this.#deadlines.read, { kind: 'read', fromBatch, maxBytes })).batches;
    });
  }

  async carry(carried: Carried): Promise<void> {
    await this.#up().ask('done', 'device', this.#deadlines.sync, { kind: 'carry', carried });
  }

  async release(upToBatch: number): Promise<{ segments: number; oldestBatch: number }> {
    const { segments, oldestBatch } = await this.#up().ask('released', 'device', this.#deadlines.sync, { kind: 'release', upToBatch });
    return { segments, oldestBatch };
  }

  async check(fromRun: number, heal: boolean): Promise<SegmentCheck> {
    return (await this.#up().ask('checked', 'device', this.#deadlines.read, { kind: 'check', fromRun, heal })).checked;
  }

  async mend(batches: readonly StoredBatch[]): Promise<readonly number[]> {
    return (await this.#up().ask('mended', 'device', this.#deadlines.read, { kind: 'mend', batches })).batches;
  }

  async resume(step: ResumeStep): Promise<ResumeAnswer> {
    // Whoever looks all the way back reads the whole FLASH.
    const isLong = (step.kind === 'survey' || step.kind === 'mend') && step.fromBatch !== null;
    const allowanceMs = isLong ? this.#deadlines.restore : this.#deadlines.format + this.#imagesMs();
    return (await this.#askWithPins('resumed', allowanceMs, { kind: 'resume', step })).answer;
  }

  async status(): Promise<HolderStatus> {
    const last = this.#status;
    const asked = this.#askStatus();
    if (last === null) return await asked;
    const patience = Promise.withResolvers<HolderStatus>();
    const timer = setTimeout(() => patience.resolve(last), statusPatienceMs);
    try {
      return await Promise.race([asked.catch(() => last), patience.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    const link = this.#link;
    if (link !== null) {
      const { close, sync } = this.#deadlines;
      // Within the deadline of a close, or of the sync that it waits for.
      await link
        .ask('done', 'token', close + sync, { kind: 'close' })
        .catch((error: unknown) => this.#options.onChatter(`closing: ${String(error)}`));
      link.fail('the holder is closed');
      await Promise.race([this.#gone, pause(killWaitMs)]);
    }
    this.#state = { kind: 'absent', reason: 'the holder is closed' };
  }

  /** One question at a time, however many ask: the answer is for all of them. */
  #askStatus(): Promise<HolderStatus> {
    this.#asked ??= this.#freshStatus().finally(() => {
      this.#asked = null;
    });
    return this.#asked;
  }

  async #freshStatus(): Promise<HolderStatus> {
    const { status } = await this.#up().ask('status', 'token', this.#deadlines.status, { kind: 'status' });
    this.#status = this.#withBefore(status);
    return this.#status;
  }

  #withBefore(status: HolderStatus): HolderStatus {
    const { signatures, signFailures, restarts, lastFailure, selfTestAtMs } = this.#before;
    return {
      ...status,
      signatures: signatures + status.signatures,
      signFailures: signFailures + status.signFailures,
      restarts,
      lastFailure: status.lastFailure ?? lastFailure,
      selfTestAtMs: status.selfTestAtMs ?? selfTestAtMs,
    };
  }

  #imagesMs(): number {
    const { imageBytes = 0, mirror } = this.#options.config;
    return ((mirror === undefined ? 1 : 2) * imageBytes) / imageBytesPerMs;
  }

  /** Whether or not there is a process to hand them to, the PINs' bytes are overwritten. */
  async #askWithPins<Kind extends Answer['kind']>(
    expected: Kind,
    allowanceMs: number,
    body: CallBody,
  ): Promise<Extract<Answer, { kind: Kind }>> {
    try {
      return await this.#up().ask(expected, 'token', allowanceMs, body);
    } finally {
      wipe(...pinsOf(body));
    }
  }

  /** Throws the state's error while no process runs. */
  #up(): Link {
    if (this.#closing !== null) throw new UkeyError('no-token', 'the holder is closed');
    if (this.#link === null) throw whyNotOpen(this.#state);
    return this.#link;
  }

  #setState(state: HolderState): void {
    if (this.#closing !== null) return;
    this.#state = state;
    this.#options.events.onState(state);
  }

  #start(): void {
    this.#timer = null;
    this.#startedMs = performance.now();
    const gone = Promise.withResolvers<void>();
    this.#gone = gone.promise;
    const { config, entry, onChatter } = this.#options;
    this.#link = new Link(entry ?? childEntry, config, this.#seen, this.#deadlines, {
      onState: (state) => this.#setState(state),
      onDown: (reason) => this.#fell(reason),
      onExit: gone.resolve,
      onChatter,
    });
  }

  #fell(reason: string): void {
    this.#seen = this.#link?.seen ?? this.#seen;
    this.#link = null;
    if (this.#closing !== null) return;
    this.#options.onChatter(reason);
    const lastFailure = { atMs: systemClock.wallMs(), reason };
    this.#before = { ...(this.#status ?? this.#before), restarts: this.#before.restarts + 1, lastFailure };
    if (this.#status !== null) this.#status = { ...this.#status, ...this.#before };
    this.#setState({ kind: 'starting' });
    // A process that the kernel cannot end still holds the FLASH: a second one must not touch it.
    const stuck = setTimeout(() => this.#setState({ kind: 'absent', reason: 'the device hangs: pull the token out' }), killWaitMs);
    this.#gone.then(() => {
      clearTimeout(stuck);
      this.#startLater();
    }, this.#options.onChatter);
  }

  #startLater(): void {
    if (this.#closing !== null) return;
    if (performance.now() - this.#startedMs >= healthyMs) this.#restartMs = restartFirstMs;
    this.#timer = setTimeout(() => this.#start(), this.#restartMs);
    this.#restartMs = Math.min(this.#restartMs * 2, this.#options.restartLongestMs ?? restartLongestMs);
  }
}

const pause = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs).unref());
