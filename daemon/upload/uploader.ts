// Owns: bringing the backlog to the ticket server: probes, the link, upload runs, acknowledgements taken into the ledger.
// Invariants: one run at a time; a run never delays or fails a till; what is sent is what the FLASH holds, sealed to the server's key; sending
// again is safe; only a signed acknowledgement moves the cursor; waits are monotonic and jittered.
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { zstdCompress } from 'node:zlib';
import type { Clock } from '#ground/clock.ts';
import { sealTo } from '#ground/hpke.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Link } from '#ipc-schema/methods.ts';
import { encodeUpload, nonceBytes, openProbe, uploadInfo, uploadMaxBatches, uploadMaxBytes } from '#ipc-schema/upstream.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { openBatch, summaryOf } from '#ledger/stored.ts';
import { afterOutcome, backOffMs, type LinkState, unknownLink } from './probe.ts';
import { type UploadAnswer, Upstream } from './upstream.ts';

const compress = promisify(zstdCompress);
const probeSoonMs = 250;
const readChunkBytes = 2 * 1024 * 1024;

export interface UploaderParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Log;
  random(): number;
  onLink(link: Link): void;
  onAcknowledged(upToBatch: number): void;
}

export interface UploadReport {
  readonly lastAttemptMs: number | null;
  readonly lastError: string | null;
  readonly parked: readonly number[];
}

export class Uploader {
  readonly #parts: UploaderParts;
  #link: LinkState = unknownLink;
  #upstream: { readonly key: string; readonly connection: Upstream } | null = null;
  #run: Promise<void> | null = null;
  #again = false;
  #timer: NodeJS.Timeout | null = null;
  #attempt = 0;
  /** Monotonic: no upload before, whoever asks. */
  #notBeforeMs = 0;
  /** The server asked for batches from here on (its own loss); null: after the last acknowledged. */
  #wanted: number | null = null;
  #report: UploadReport = { lastAttemptMs: null, lastError: null, parked: [] };
  #closed = false;

  constructor(parts: UploaderParts) {
    this.#parts = parts;
  }

  get link(): Link {
    return this.#link.link;
  }

  get report(): UploadReport {
    return this.#report;
  }

  /** Something was committed: sent at once while the link is up; else it waits for the next proof. */
  committed(): void {
    if (this.#link.link === 'up' && this.#timer === null) this.#begin(false);
  }

  /** The timetable's call, and everybody's who wants to know now: probes, and drains when our server answers. Never rejects. */
  async probe(): Promise<void> {
    this.#begin(true);
    await this.#run;
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#upstream?.connection.close();
    await this.#run;
  }

  #begin(probeFirst: boolean): void {
    if (this.#closed) return;
    if (this.#run !== null) {
      this.#again = true;
      return;
    }
    this.#run = this.#work(probeFirst)
      .catch((error: unknown) => this.#failed(error))
      .finally(() => {
        this.#run = null;
        const again = this.#again;
        this.#again = false;
        if (again && this.#link.link === 'up' && this.#timer === null) this.#begin(false);
      });
  }

  async #work(probeFirst: boolean): Promise<void> {
    const { ledger } = this.#parts.custody;
    const charter = ledger?.charter;
    if (ledger === null || charter === null || charter === undefined) return;
    if (probeFirst) {
      this.#note({ lastAttemptMs: this.#parts.clock.wallMs() });
      await this.#prove(charter);
    }
    if (charter.mode === 'offline' || this.#parts.clock.monotonicMs() < this.#notBeforeMs) return;
    await this.#drain(ledger, charter);
    this.#attempt = 0;
    this.#note({ lastError: null });
  }

  async #prove(charter: Charter): Promise<void> {
    const nonce = new Uint8Array(randomBytes(nonceBytes));
    const answer = await this.#connection(charter).probe(nonce);
    openProbe(answer, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')), nonce);
    this.#judge('proof');
  }

  async #drain(ledger: Ledger, charter: Charter): Promise<void> {
    while (!this.#closed && this.#link.link === 'up' && this.#parts.custody.ledger === ledger) {
      const { tip } = ledger;
      const from = this.#wanted ?? tip.ackedBatch + 1;
      if (from >= tip.nextBatch || (this.#wanted === null && tip.lastWeightyBatch <= tip.ackedBatch)) return;
      this.#note({ lastAttemptMs: this.#parts.clock.wallMs() });
      const { batches, lastBatch } = await this.#gather(ledger, from);
      const plain = encodeUpload({ tokenId: ledger.mount.tokenId, batches });
      const sealed = await sealTo(Buffer.from(charter.server.sealKey, 'base64'), uploadInfo, await compress(plain));
      const answer = await this.#connection(charter).upload(sealed);
      await this.#answered(ledger, charter, answer, lastBatch);
    }
  }

  async #gather(ledger: Ledger, from: number): Promise<{ readonly batches: Uint8Array[]; readonly lastBatch: number }> {
    const batches: Uint8Array[] = [];
    let bytes = 0;
    let next = from;
    while (next < ledger.tip.nextBatch && batches.length < uploadMaxBatches && bytes < uploadMaxBytes - readChunkBytes) {
      for (const stored of await this.#parts.holder.read(next, readChunkBytes)) {
        if (batches.length >= uploadMaxBatches || stored.batchIndex >= ledger.tip.nextBatch) break;
        const batch = openBatch(stored.batchIndex, stored.bytes);
        ledger.noteSummary(stored.batchIndex, summaryOf(batch.leaves, batch.sealBytes));
        batches.push(stored.bytes);
        bytes += stored.bytes.length;
        next = stored.batchIndex + 1;
      }
    }
    return { batches, lastBatch: next - 1 };
  }

  async #answered(ledger: Ledger, charter: Charter, answer: UploadAnswer, lastBatch: number): Promise<void> {
    if (answer.kind === 'refused') {
      this.#refused(ledger, answer);
      return;
    }
    const ack = await acknowledge(ledger, charter, answer.signed);
    this.#judge('proof');
    this.#wanted = this.#wanted !== null && lastBatch < ledger.tip.ackedBatch ? lastBatch + 1 : null;
    if (ack === null) return;
    this.#note({ parked: [...new Set([...this.#report.parked, ...ack.parked])].slice(-1_000) });
    this.#parts.onAcknowledged(ack.upToBatch);
  }

  /** Status codes: 3-formats §3.4. Throws what makes the run end and wait. */
  #refused(ledger: Ledger, answer: Extract<UploadAnswer, { kind: 'refused' }>): void {
    const { refusal, status } = answer;
    if (status === 409 && refusal?.code === 'fork') throw new UkeyError('halted', `clone: ${refusal.message}`);
    if (status === 409 && refusal?.wantBatch !== undefined) {
      if (refusal.wantBatch > ledger.tip.nextBatch)
        throw new UkeyError('halted', `rollback: the server expects batch ${refusal.wantBatch}, this token ends before it`);
      if (refusal.wantBatch === this.#wanted) throw new UkeyError('busy', 'the server asks for the same batch again');
      this.#wanted = refusal.wantBatch;
      return;
    }
    const why = refusal?.message ?? 'no reason was given';
    throw new UkeyError(
      'offline',
      `the server answers status ${status}: ${why}`,
      answer.retryAfterMs === null ? {} : { retryAfterMs: answer.retryAfterMs },
    );
  }

  #failed(error: unknown): void {
    const known = asUkeyError(error);
    this.#note({ lastError: `${known.code}: ${known.message}` });
    if (this.#closed) return;
    if (known.code === 'halted') {
      this.#parts.custody.halt(known.message);
      return;
    }
    if (this.#parts.custody.ledger === null) return; // the token has gone meanwhile: the next proof begins anew
    // `busy`: our server answered and would not take it: the link is not to blame, so wait, longer each time.
    const waitMs = known.code === 'busy' ? (known.retryAfterMs ?? backOffMs(this.#attempt++, this.#parts.random())) : this.#afterFailure();
    this.#parts.log[this.#link.link === 'down' ? 'debug' : 'warn']('upload did not go through', { code: known.code, why: whyOf(error) });
    if (waitMs === null || this.#timer !== null) return; // down: the timetable probes
    this.#notBeforeMs = this.#parts.clock.monotonicMs() + waitMs;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#begin(true);
    }, waitMs);
  }

  #afterFailure(): number | null {
    return this.#judge('failure').probeSoon ? probeSoonMs : null;
  }

  #judge(outcome: 'proof' | 'failure'): { readonly probeSoon: boolean } {
    const before = this.#link.link;
    const decision = afterOutcome(this.#link, outcome);
    this.#link = { link: decision.link, failuresInRow: decision.failuresInRow };
    if (decision.link !== before) this.#parts.onLink(decision.link);
    return decision;
  }

  #note(facts: Partial<UploadReport>): void {
    this.#report = { ...this.#report, ...facts };
  }

  #connection(charter: Charter): Upstream {
    const key = JSON.stringify([charter.server.url, charter.server.tlsCertificate]);
    if (this.#upstream?.key !== key) {
      this.#upstream?.connection.close();
      this.#upstream = { key, connection: new Upstream(charter.server) };
    }
    return this.#upstream.connection;
  }
}
