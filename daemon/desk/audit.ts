// Owns: the audit trail: what is noted of the service and its token becomes admin entries of the ledger, a few records to an entry.
// Invariants: nobody waits for it, and it makes no work by itself: only a person, a start or a try of the stored PIN begets a record, never an entry or an
// acknowledgement. Records of a person's doing are committed within gatherMs, whatever else is noted meanwhile; others at most once in calmMs, and no more of them
// wait than calmMax, so that a service that starts again and again, or a program that reads again and again, neither fills the FLASH nor crowds a person's out. What cannot be committed (no ledger is open) is kept in a file of the state folder, bounded, and says
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
/** Of those that no person has done. */
const calmMax = 32;
const fileMaxBytes = 256 * 1024;
export const auditWaits: AuditWaits = { gatherMs: 2_000, calmMs: 3_600_000 };

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

const calm: readonly AuditRecord['what'][] = ['service.start', 'stored-pin.login', 'ledger.read'];
/** Done by a person, who may want to see it stand there. */
const isHurried = ({ what }: Note): boolean => !calm.includes(what);

/** With one more record: what was done several times is one record of it. Pure. */
export function withRecord(records: readonly AuditRecord[], record: AuditRecord): readonly AuditRecord[] {
  const isSame = (one: AuditRecord): boolean =>
    one.what === record.what &&
    one.who === record.who &&
    one.outcome === record.outcome &&
    one.terminal === record.terminal &&
    one.digest === record.digest &&
    one.kept === record.kept;
  const at = records.findIndex(isSame);
  const known = records[at];
  if (known === undefined) return [...records, record];
  // Of runs through the ledger the one that began first tells how far back was read.
  const from = record.fromBatch === undefined ? {} : { fromBatch: Math.min(known.fromBatch ?? record.fromBatch, record.fromBatch) };
  return records.with(at, { ...known, ...from, times: (known.times ?? 1) + 1, lastAt: record.at });
}

/** `taken`: of an entry that is on its way, and may come back. */
function hasRoom(records: readonly AuditRecord[], taken: number, note: Note): boolean {
  const isCrowd = !isHurried(note) && records.filter((one) => !isHurried(one)).length > calmMax;
  return records.length + taken <= waitingMax && !isCrowd;
}

export class Audit {
  readonly #parts: AuditParts;
  readonly #waits: AuditWaits;
  readonly #file: string;
  #records: readonly AuditRecord[] = [];
  #omitted = 0;
  #isInFile = false;
  #timer: NodeJS.Timeout | null = null;
  /** Monotonic: when the timer is due. */
  #dueMs = 0;
  /** Records of the entry that is on its way: if it is refused, they come back. */
  #taken = 0;
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
    if (hasRoom(records, this.#taken, note)) this.#records = records;
    else this.#omitted += 1;
    this.#parts.log.info('audit', { ...note });
    if (!isOpen) this.#write(); // this token serves no till now; those of others wait for one small sync, once for what a person did
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
    const { gatherMs, calmMs } = this.#waits;
    const nowMs = this.#parts.clock.monotonicMs();
    const isUrgent = this.#refusedBy !== this.#parts.custody.ledger && this.#records.some(isHurried);
    const isEntryFull = this.#records.length >= auditRecordsMax;
    const sinceMs = nowMs - this.#lastMs;
    const waitMs = isEntryFull && isUrgent ? 0 : Math.max(gatherMs, (isUrgent ? gatherMs : calmMs) - sinceMs);
    // What is noted while one waits may bring it forward, and never puts it off.
    if (this.#timer !== null && this.#dueMs <= nowMs + waitMs) return;
    this.#disarm();
    this.#dueMs = nowMs + waitMs;
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
      this.#taken = taken.length;
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
      this.#taken = 0;
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
