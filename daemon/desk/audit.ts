// Owns: the audit trail: what is noted of the service and its token becomes admin entries of the ledger, a few records to an entry.
// Invariants: nobody waits for it, and it makes no work by itself: only a person, a start or a try of the stored PIN begets a record, never an entry or an
// acknowledgement. Records of a person's doing are committed within gatherMs, others at most once in calmMs, so that a service that starts again and again, or
// a program that reads again and again, fills no FLASH. What cannot be committed (no ledger is open) is kept in a file of the state folder, bounded, and says
// so (`kept`): who can write there could have changed it meanwhile. A store that is full gets none. After a crash a record may stand twice, and none is lost
// that was noted while no ledger was open.
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import type { Clock } from '#ground/clock.ts';
import { writeDurably } from '#ground/durable-file.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { type AuditRecord, auditRecordSchema, auditRecordsMax } from '#ipc-schema/audit.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check, z } from '#ipc-schema/schema.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';

const waitingMax = 256;
const fileMaxBytes = 256 * 1024;
export const auditWaits: AuditWaits = { gatherMs: 2_000, calmMs: 60_000 };

export interface AuditWaits {
  readonly gatherMs: number;
  readonly calmMs: number;
}

export interface AuditParts {
  readonly custody: Pick<Custody, 'ledger'>;
  readonly holder: Pick<Holder, 'status'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly stateDirectory: string;
  readonly waits?: AuditWaits;
}

export type Note = Omit<AuditRecord, 'at' | 'times' | 'lastAt' | 'kept'>;

const fileSchema = z.strictObject({
  format: z.literal('ukey-audit/1'),
  records: z.array(auditRecordSchema).max(waitingMax),
  omitted: z.int().min(0),
});

/** Done by a person, who may want to see it stand there. */
const calm: readonly AuditRecord['what'][] = ['service.start', 'stored-pin.login', 'ledger.read'];
const isHurried = ({ what }: Note): boolean => !calm.includes(what);

/** With one more record: what was done several times is one record of it. Pure. */
export function withRecord(records: readonly AuditRecord[], record: AuditRecord): readonly AuditRecord[] {
  const isSame = (one: AuditRecord): boolean =>
    one.what === record.what &&
    one.who === record.who &&
    one.outcome === record.outcome &&
    one.terminal === record.terminal &&
    one.digest === record.digest &&
    one.fromBatch === record.fromBatch &&
    one.kept === record.kept;
  const at = records.findIndex(isSame);
  const known = records[at];
  if (known === undefined) return [...records, record];
  return records.with(at, { ...known, times: (known.times ?? 1) + 1, lastAt: record.at });
}

export class Audit {
  readonly #parts: AuditParts;
  readonly #waits: AuditWaits;
  readonly #file: string;
  #records: readonly AuditRecord[] = [];
  #omitted = 0;
  #isInFile = false;
  #timer: NodeJS.Timeout | null = null;
  /** Monotonic: when the last entry was written, or this began. */
  #lastMs: number;
  #committing: Promise<void> | null = null;
  /** It took nothing at the last try: the next one is not hurried. */
  #refusedBy: Ledger | null = null;
  #closed = false;

  constructor(parts: AuditParts) {
    this.#parts = parts;
    this.#waits = parts.waits ?? auditWaits;
    this.#file = path.join(parts.stateDirectory, 'audit-waiting.json');
    this.#lastMs = parts.clock.monotonicMs();
    this.#read();
  }

  /** Records that wait for their entry. */
  get waiting(): number {
    return this.#records.length;
  }

  /** Never throws and never waits. */
  note(note: Note): void {
    const at = new Date(this.#parts.clock.wallMs()).toISOString();
    const isOpen = this.#parts.custody.ledger !== null;
    const records = withRecord(this.#records, { ...note, at, ...(isOpen ? {} : { kept: true }) });
    if (records.length <= waitingMax) this.#records = records;
    else this.#omitted += 1;
    this.#parts.log.info('audit', { ...note });
    if (!isOpen) this.#write(); // no till is served now: one sync harms nobody
    this.#arm();
  }

  /** The ledger has opened, or something else has changed. */
  look(): void {
    if (this.#timer === null && this.#records.length > 0) this.#arm();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#disarm();
    await this.#committing;
    if (this.#records.length > 0) this.#write();
  }

  #disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #arm(): void {
    if (this.#closed || this.#parts.custody.ledger === null || this.#committing !== null) return;
    this.#disarm();
    const { gatherMs, calmMs } = this.#waits;
    const isUrgent = this.#refusedBy !== this.#parts.custody.ledger && this.#records.some(isHurried);
    const isEntryFull = this.#records.length >= auditRecordsMax;
    const sinceMs = this.#parts.clock.monotonicMs() - this.#lastMs;
    const waitMs = isEntryFull && isUrgent ? 0 : Math.max(gatherMs, (isUrgent ? gatherMs : calmMs) - sinceMs);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#committing = this.#commit().finally(() => {
        this.#committing = null;
        this.look();
      });
    }, waitMs).unref();
  }

  /** Never rejects. */
  async #commit(): Promise<void> {
    const { custody, holder, clock, log } = this.#parts;
    const { ledger } = custody;
    if (ledger === null || this.#records.length === 0) return;
    this.#lastMs = clock.monotonicMs();
    this.#refusedBy = ledger;
    let taken: readonly AuditRecord[] = [];
    try {
      const { usedPercent } = await holder.status();
      if (ledger.full || usedPercent >= 100) return; // what is left of a full FLASH is for acknowledgements
      taken = this.#records.slice(0, auditRecordsMax);
      this.#records = this.#records.slice(taken.length);
      const omitted = this.#records.length === 0 ? this.#omitted : 0;
      const body = encodeAdminEvent({ event: 'audit', records: [...taken], ...(omitted === 0 ? {} : { omitted }) });
      await ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: body.length, body: () => body });
      taken = [];
      this.#omitted -= omitted;
      this.#refusedBy = null;
      if (this.#isInFile && this.#records.length === 0) this.#write(); // else later: tills are served now, and a sync takes its time
    } catch (error) {
      log.debug('audit records wait', { code: asUkeyError(error).code, why: whyOf(error) });
    } finally {
      this.#records = [...taken, ...this.#records];
    }
  }

  #read(): void {
    let content: Buffer;
    try {
      content = readFileSync(this.#file);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT')
        this.#parts.log.error('the audit records that waited cannot be read', { why: whyOf(cause) });
      return;
    }
    this.#isInFile = true;
    try {
      const { records, omitted } = check(fileSchema, decodeJson(content, { maxBytes: fileMaxBytes, maxDepth: 4 }));
      this.#records = records.map((record) => ({ ...record, kept: true }));
      this.#omitted = omitted;
    } catch (error) {
      this.#omitted = 1; // at least that is told
      this.#parts.log.error('the audit records that waited are spoilt', { why: whyOf(error) });
    }
  }

  #write(): void {
    try {
      if (this.#records.length === 0 && this.#omitted === 0) rmSync(this.#file, { force: true });
      else writeDurably(this.#file, JSON.stringify({ format: 'ukey-audit/1', records: this.#records, omitted: this.#omitted }));
      this.#isInFile = this.#records.length > 0;
    } catch (error) {
      this.#parts.log.error('audit records could not be kept', { why: whyOf(error) });
    }
  }
}
