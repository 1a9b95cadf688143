// Owns: bringing the backlog to the ticket server: probes, the link, upload runs, acknowledgements taken into the ledger.
// Invariants: one run at a time; a run never delays or fails a till; nothing is sent before our server was proven by its signature; what is sent is
// what the FLASH holds, sealed to the server's key; sending again is safe; only a signed acknowledgement moves the cursor, and only what the
// server signed proves a rollback or a clone.
// Waits are monotonic and jittered. A failed upload waits ever longer, however well the probes go; only an acknowledgement sets that back.
import { randomBytes } from 'node:crypto';
import { apart } from '#ground/asking.ts';
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Link } from '#ipc-schema/status.ts';
import { nonceBytes, openProbe, uploadMaxBatches } from '#ipc-schema/upstream.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import { type CloneAlarm, type Contradiction, contradictionIn, type Evidence } from '#ledger/contradiction.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { Account, type UploadCounts, type UploadReport, uploadName } from './account.ts';
import { AlarmWatch } from './alarm-watch.ts';
import { Pace } from './pace.ts';
import { Preparing } from './preparing.ts';
import { afterOutcome, backOffMs, isForGood, type LinkState, unknownLink } from './probe.ts';
import { ProvenTime } from './proven-time.ts';
import { type UploadAnswer, Upstream } from './upstream.ts';

const probeSoonMs = 250;
/** What a Retry-After may ask for at most: longer silences are the timetable's to end. */
const retryAfterMaxMs = 3_600_000;

export interface UploaderParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Log;
  random(): number;
  onLink(link: Link): void;
  onAcknowledged(tokenId: Uint8Array, upToBatch: number): void;
  /** The server told of another copy of the token; null: no more. Called at each change. */
  onAlarm(alarm: CloneAlarm | null): void;
}

/** What an upload came to. `link`: whether it also says something about the line. */
interface Setback {
  readonly link: 'unharmed' | 'failed';
  readonly retryAfterMs: number | null;
}

export class Uploader {
  readonly #parts: UploaderParts;
  #link: LinkState = unknownLink;
  readonly #time: ProvenTime;
  #upstream: { readonly key: string; readonly connection: Upstream } | null = null;
  #ledger: Ledger | null = null;
  #run: Promise<void> | null = null;
  #again = false;
  #timer: NodeJS.Timeout | null = null;
  /** Uploads that failed in a row. */
  #setbacks = 0;
  /** Monotonic: the server, or our own ledger, takes nothing before, whoever asks. */
  #notBeforeMs = 0;
  /** The server asked for batches from here on (its own loss); null: after the last acknowledged. */
  #wanted: number | null = null;
  /** Batches in one upload: fewer after one that did not get through, more again after one that did. */
  #batchesMax = uploadMaxBatches;
  readonly #watch: AlarmWatch;
  readonly #account = new Account();
  #closed = false;
  readonly #pace: Pace;
  readonly #preparing: Preparing;

  constructor(parts: UploaderParts) {
    this.#parts = parts;
    this.#time = new ProvenTime(parts.clock);
    this.#pace = new Pace(parts.clock, () => this.committed());
    this.#preparing = new Preparing(parts.holder, parts.log);
    this.#watch = new AlarmWatch(parts);
  }

  get link(): Link {
    return this.#link.link;
  }

  /** What time it is by our server's signature, carried on since it came. */
  get provenNowMs(): number | null {
    return this.#time.nowMs;
  }

  /** Another copy of the token that is open, as the server told last. */
  get alarm(): CloneAlarm | null {
    const { ledger } = this.#parts.custody;
    return ledger === null ? null : this.#watch.alarmOf(ledger.mount.tokenId);
  }

  get report(): UploadReport {
    return this.#account.report;
  }

  get counts(): UploadCounts {
    return this.#account.counts;
  }

  /** Something was committed: sent at once or within a moment (pace.ts) while the link is up; else it waits for the next proof. */
  committed(): void {
    if (this.#link.link === 'up' && this.#timer === null && !this.#pace.isWaiting) this.#begin(false);
  }

  /** Somebody waits for the acknowledgement of what is committed. */
  hurry(): void {
    this.#pace.hurry();
  }

  /** The timetable's call, and everybody's who wants to know now: probes, and drains when our server answers. Never rejects. */
  async probe(): Promise<void> {
    await this.#run; // one that has begun may have probed before the line came back
    this.#begin(true);
    await this.#run;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#pace.close();
    this.#disarm();
    this.#upstream?.connection.close();
    await Promise.all([this.#run, this.#preparing.close()]);
  }

  #begin(probeFirst: boolean): void {
    if (this.#closed) return;
    if (this.#run !== null) {
      this.#again = true;
      return;
    }
    this.#run = apart(() => this.#work(probeFirst))
      .catch((error: unknown) => this.#fault(error))
      .finally(() => {
        this.#run = null;
        this.#preparing.drop();
        const again = this.#again;
        this.#again = false;
        if (again) this.committed();
      });
  }

  async #work(probeFirst: boolean): Promise<void> {
    const { ledger } = this.#parts.custody;
    const charter = ledger?.charter;
    if (ledger === null || charter === null || charter === undefined) return;
    this.#take(ledger, charter);
    if (probeFirst && !(await this.#prove(charter))) return;
    if (probeFirst && (await this.#isStopped(ledger, charter))) return;
    const leftMs = this.#notBeforeMs - this.#parts.clock.monotonicMs();
    if (leftMs > 0) return this.#arm(leftMs + 1);
    if (charter.mode === 'offline') return;
    // What is there goes in one go, in however many uploads; what is committed meanwhile keeps the pace.
    let upTo = probeFirst ? ledger.tip.nextBatch : 0;
    while (this.#mayGoOn(ledger)) {
      const from = this.#wanted ?? ledger.tip.ackedBatch + 1;
      if (from >= ledger.tip.nextBatch || (this.#wanted === null && ledger.tip.lastWeightyBatch <= ledger.tip.ackedBatch)) break;
      if (from >= upTo && this.#wanted === null && !this.#pace.mayGo(ledger.tip.nextBatch - from)) break;
      if (from >= upTo) upTo = ledger.tip.nextBatch;
      const setback = await this.#uploadFrom(ledger, charter, from);
      this.#pace.sent();
      if (setback !== null) return this.#waitAfter(setback);
    }
    if (this.#setbacks === 0) this.#account.note({ lastError: null });
  }

  #mayGoOn(ledger: Ledger): boolean {
    return !this.#closed && this.#link.link === 'up' && this.#parts.custody.ledger === ledger;
  }

  /** Another ledger: what was asked of the last one is void. Another server: nothing is proven. */
  #take(ledger: Ledger, charter: Charter): void {
    if (ledger !== this.#ledger) {
      this.#wanted = null;
      this.#watch.hurry();
      this.#account.goesOn();
    }
    this.#ledger = ledger;
    const key = JSON.stringify(charter.server);
    if (key === this.#upstream?.key) return;
    this.#upstream?.connection.close();
    this.#upstream = { key, connection: new Upstream(charter.server) };
    const before = this.#link.link;
    this.#link = unknownLink;
    this.#time.forget();
    this.#account.goesOn();
    if (before !== 'unknown') this.#parts.onLink('unknown');
  }

  // ---- Probe

  /** Whether our server has proven itself. */
  async #prove(charter: Charter): Promise<boolean> {
    this.#account.note({ lastAttemptMs: this.#parts.clock.wallMs() });
    try {
      const nonce = new Uint8Array(randomBytes(nonceBytes));
      const answer = await this.#upstreamNow().probe(nonce);
      const { serverTimeMs } = openProbe(answer, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')), nonce);
      this.#time.prove(serverTimeMs);
      this.#judge('proof');
      this.#account.proven('probesProven', this.#parts.clock.wallMs());
      return true;
    } catch (error) {
      this.#account.count('probesFailed');
      this.#tell(error);
      if (!this.#closed && this.#judge('failure').probeSoon) this.#arm(probeSoonMs); // else the timetable probes
      return false;
    }
  }

  // ---- Upload

  /** null: it went through, or the next one is to be another. */
  async #uploadFrom(ledger: Ledger, charter: Charter, from: number): Promise<Setback | null> {
    this.#account.note({ lastAttemptMs: this.#parts.clock.wallMs() });
    const wish = { ledger, charter, fromBatch: from, batchesMax: this.#batchesMax };
    const prepared = await this.#preparing.take(wish);
    let answer: UploadAnswer;
    const name = uploadName();
    this.#parts.log.debug('upload', { upload: name, fromBatch: from, toBatch: prepared.lastBatch });
    try {
      const answering = this.#upstreamNow().upload(prepared.body, name);
      this.#preparing.goOn(prepared, wish);
      answer = await answering;
    } catch (error) {
      this.#account.count('failed');
      this.#tell(error, name);
      this.#batchesMax = Math.max(1, Math.floor(prepared.batchCount / 2)); // a slow line carries less at a time
      return { link: 'failed', retryAfterMs: null };
    }
    if (answer.kind === 'refused') return await this.#refused(ledger, charter, answer, prepared.batchCount);
    return await this.#acknowledged(ledger, charter, answer.signed, prepared.lastBatch);
  }

  async #acknowledged(ledger: Ledger, charter: Charter, signed: Uint8Array, lastBatch: number): Promise<Setback | null> {
    const before = ledger.tip.ackedBatch;
    let parked: readonly number[] | null = null;
    try {
      if (await this.#contradicts(ledger, charter, { kind: 'acknowledgement', signed })) return null;
      const ack = await acknowledge(ledger, charter, signed, this.#time.nowMs);
      if (ack !== null) this.#time.isAtLeast(ack.serverTimeMs);
      parked = ack?.parked ?? null;
    } catch (error) {
      const { code, message } = asUkeyError(error);
      if (code === 'halted') throw error;
      this.#tell(error);
      if (code === 'clock-untrusted') this.#account.refused(message); // the probe that follows proves the time anew
      // Not our server's signature, or not for us: whoever answered is no proof. Anything else is the ledger's own trouble.
      return { link: code === 'invalid-request' ? 'failed' : 'unharmed', retryAfterMs: null };
    }
    this.#judge('proof');
    this.#account.proven('acknowledged', this.#parts.clock.wallMs());
    this.#setbacks = 0;
    this.#account.goesOn();
    this.#disarm();
    this.#batchesMax = Math.min(uploadMaxBatches, this.#batchesMax * 2);
    const isMending = this.#wanted !== null;
    this.#wanted = isMending && lastBatch < ledger.tip.ackedBatch ? lastBatch + 1 : null;
    if (parked === null) return isMending ? null : this.#noProgress();
    this.#account.park(parked);
    if (ledger.tip.ackedBatch > before) this.#parts.onAcknowledged(ledger.mount.tokenId, ledger.tip.ackedBatch);
    return null;
  }

  /** An acknowledgement that covers nothing of what was sent: sending it again at once would go on for ever. */
  #noProgress(): Setback {
    this.#tell(new UkeyError('internal', 'the acknowledgement covers nothing of what was sent'));
    return { link: 'unharmed', retryAfterMs: null };
  }

  /** Status codes: SPEC.md, Ticket server. A refusal is not signed, so that it moves nothing but the next attempt. */
  async #refused(
    ledger: Ledger,
    charter: Charter,
    answer: Extract<UploadAnswer, { kind: 'refused' }>,
    batchCount: number,
  ): Promise<Setback | null> {
    const { refusal, status, retryAfterMs } = answer;
    this.#account.count('refused');
    this.#tell(new UkeyError('offline', `the server answers status ${status}: ${refusal?.message ?? 'no reason was given'}`));
    if (status === 413 && batchCount > 1) {
      this.#batchesMax = Math.floor(batchCount / 2);
      return null;
    }
    // Where it has no room, a smaller one finds some sooner.
    if (status === 503) this.#batchesMax = Math.max(1, Math.floor(batchCount / 2));
    const want = status === 409 ? refusal?.wantBatch : undefined;
    let why = refusal?.message ?? `status ${status}`;
    if (refusal?.code === 'fork' || (want !== undefined && want > ledger.tip.nextBatch)) await this.#askForProof(ledger, charter);
    else if (want !== undefined && want < ledger.kept.oldestBatch) why = this.#wantsReleased(ledger, want);
    else if (want !== undefined && this.#wanted === null) {
      this.#wanted = want; // asked twice without taking anything, it has to wait
      return null;
    }
    if (isForGood(status)) this.#account.refused(why);
    return { link: 'unharmed', retryAfterMs };
  }

  /** It acknowledged that batch and has lost it, or the answer is an error: nobody here can give it. Told at once; answers in which words. */
  #wantsReleased({ kept }: Ledger, want: number): string {
    const sentence = `it asks for batch ${want}, which it has acknowledged; the token keeps from batch ${kept.oldestBatch} on`;
    this.#parts.log.error('the ticket server asks for what was released', { wantBatch: want, oldestBatch: kept.oldestBatch });
    this.#account.note({ refusedFor: sentence });
    return sentence;
  }

  /**
   * The server says clone or rollback. What it has signed decides: its alarm, which names our very batch, or else its answer to the oldest batch
   * that is kept, which it should have, and which names its head.
   */
  async #askForProof(ledger: Ledger, charter: Charter): Promise<void> {
    this.#watch.hurry();
    if (await this.#isStopped(ledger, charter)) return;
    const { body } = await this.#preparing.take({ ledger, charter, fromBatch: ledger.kept.oldestBatch, batchesMax: 1 });
    const answer = await this.#upstreamNow().upload(body);
    if (answer.kind !== 'acknowledged') return;
    if (!(await this.#contradicts(ledger, charter, { kind: 'acknowledgement', signed: answer.signed })))
      await acknowledge(ledger, charter, answer.signed, this.#time.nowMs);
  }

  /** Whether issuing was stopped for it. Throws invalid-request when it is not our server's. */
  async #contradicts(ledger: Ledger, charter: Charter, evidence: Evidence): Promise<boolean> {
    const found = await contradictionIn(ledger, charter, evidence);
    if (found !== null) this.#stop(ledger, found);
    return found !== null;
  }

  async #isStopped(ledger: Ledger, charter: Charter): Promise<boolean> {
    const found = await this.#watch.look(ledger, charter, this.#upstreamNow());
    if (found !== null) this.#stop(ledger, found);
    return found !== null;
  }

  #stop(ledger: Ledger, found: Contradiction): void {
    this.#tell(new UkeyError('halted', found.reason));
    this.#parts.custody.contradicted(ledger, found);
  }

  // ---- Failures and waits

  #waitAfter({ link, retryAfterMs }: Setback): void {
    if (link === 'failed') this.#judge('failure');
    const waitMs = retryAfterMs === null ? backOffMs(this.#setbacks, this.#parts.random()) : Math.min(retryAfterMs, retryAfterMaxMs);
    this.#setbacks += 1;
    this.#wanted = null; // what it wanted may be an error, or gone by now: it is asked anew from the last acknowledged on
    // A line that failed is good again once our server has proven itself: only a server that does not want to, or our own ledger, is waited for.
    if (link === 'unharmed') this.#notBeforeMs = this.#parts.clock.monotonicMs() + waitMs;
    this.#arm(waitMs);
  }

  #disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Then: probe, and drain. */
  #arm(waitMs: number): void {
    if (this.#closed) return;
    this.#disarm();
    this.#timer = apart(() =>
      setTimeout(() => {
        this.#timer = null;
        this.#begin(true);
      }, waitMs),
    );
  }

  /** What no step has taken: trouble of token and ledger. It proves nothing (`#stop`), and may pass: tills go on, and it is tried again. */
  #fault(error: unknown): void {
    const { code, message } = asUkeyError(error);
    this.#tell(error);
    const { ledger } = this.#parts.custody;
    if (this.#closed || ledger === null || ledger !== this.#ledger) return; // gone: the next proof begins anew
    if (code === 'halted') this.#account.note({ heldUpBy: message });
    this.#waitAfter({ link: 'unharmed', retryAfterMs: null });
  }

  /** `upload`: the name that its request has in the server's log. */
  #tell(error: unknown, upload?: string): void {
    const { code, message } = asUkeyError(error);
    this.#account.note({ lastError: `${code}: ${message}` });
    this.#parts.log[this.#link.link === 'down' ? 'debug' : 'warn']('upload', { upload, code, why: whyOf(error) });
  }

  #judge(outcome: 'proof' | 'failure'): { readonly probeSoon: boolean } {
    const before = this.#link.link;
    const decision = afterOutcome(this.#link, outcome);
    this.#link = { link: decision.link, failuresInRow: decision.failuresInRow };
    if (decision.link !== before) this.#parts.onLink(decision.link);
    return decision;
  }

  #upstreamNow(): Upstream {
    if (this.#upstream === null) throw new UkeyError('internal', 'no server is known yet');
    return this.#upstream.connection;
  }
}
