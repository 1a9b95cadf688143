// Owns: what the ticket server tells of other copies of the token: asked behind a probe, a while apart.
// Invariants: an answer counts only with the server's signature over our nonce and a seal of the token's own key inside; a question that fails
// harms nothing else; what was told stays until the server tells otherwise, for this token alone.
import { randomBytes } from 'node:crypto';
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { nonceBytes } from '#ipc-schema/upstream.ts';
import { alarmFor, type CloneAlarm, type Contradiction, contradictionIn } from '#ledger/contradiction.ts';
import type { Ledger } from '#ledger/ledger.ts';
import type { Upstream } from './upstream.ts';

/** Between two questions. */
export const alarmPauseMs = 30_000;

interface WatchParts {
  readonly clock: Clock;
  readonly log: Log;
  /** At each change; null: no more. */
  onAlarm(alarm: CloneAlarm | null): void;
}

export class AlarmWatch {
  readonly #parts: WatchParts;
  #told: { readonly tokenId: string; readonly alarm: CloneAlarm } | null = null;
  /** Monotonic. */
  #notBeforeMs = 0;

  constructor(parts: WatchParts) {
    this.#parts = parts;
  }

  /** Of this token; what was told of another one says nothing of it. */
  alarmOf(tokenId: Uint8Array): CloneAlarm | null {
    return this.#told?.tokenId === nameOf(tokenId) ? this.#told.alarm : null;
  }

  /** The next `look` asks. */
  hurry(): void {
    this.#notBeforeMs = 0;
  }

  /** Asks, if it is time. Answers what stops this ledger: that it is our own batch which the server refused. Never rejects. */
  async look(ledger: Ledger, charter: Charter, upstream: Pick<Upstream, 'alarm'>): Promise<Contradiction | null> {
    const { clock, log } = this.#parts;
    if (clock.monotonicMs() < this.#notBeforeMs) return null;
    this.#notBeforeMs = clock.monotonicMs() + alarmPauseMs;
    try {
      const nonce = new Uint8Array(randomBytes(nonceBytes));
      const signed = await upstream.alarm(ledger.mount.tokenId, nonce);
      if (signed === null) return null;
      const alarm = await alarmFor(ledger, charter, signed, nonce);
      const found = alarm === null ? await contradictionIn(ledger, charter, { kind: 'alarm', signed }) : null;
      if (found === null) this.#take(nameOf(ledger.mount.tokenId), alarm);
      return found;
    } catch (error) {
      log.warn('the question for alarms', { why: whyOf(error) });
      return null;
    }
  }

  #take(tokenId: string, alarm: CloneAlarm | null): void {
    const before = this.#told?.tokenId === tokenId ? this.#told.alarm : null;
    this.#told = alarm === null ? null : { tokenId, alarm };
    if (before?.batchIndex !== alarm?.batchIndex || before?.raisedAtMs !== alarm?.raisedAtMs) this.#parts.onAlarm(alarm);
  }
}

const nameOf = (tokenId: Uint8Array): string => Buffer.from(tokenId).toString('hex');
