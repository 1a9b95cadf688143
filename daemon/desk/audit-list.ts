// Owns: the errand audit.list: the admin entries of the ledger, newest first, a page at a time.
// Invariants: only what is durable; what was released is told as such, never left out; it reads batches, and stands in line with who reads pages of the ledger.
import type { Holder } from '#holder/holder.ts';
import { auditPageEntries } from '#ipc-schema/audit.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import { committedAt, readBatch } from '#ledger/stored.ts';
import type { Audit } from './audit.ts';
import type { LedgerReading } from './ledger-read.ts';

export interface AuditListParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly audit: Audit;
  readonly reading: LedgerReading;
}

export function auditList(parts: AuditListParts, params: Params<'audit.list'>): Promise<Result<'audit.list'>> {
  return parts.reading.inLine(() => page(parts, params));
}

async function page(parts: AuditListParts, { before, limit = auditPageEntries }: Params<'audit.list'>): Promise<Result<'audit.list'>> {
  const { custody, holder, audit } = parts;
  const ledger = await custody.use();
  const rows = await ledger.adminRows(before ?? null, limit);
  const entries: Result<'audit.list'>['entries'] = [];
  for (const { sequence, batch, place } of rows) {
    const entry = batch < ledger.kept.oldestBatch ? null : committedAt(await readBatch(holder, batch), place);
    entries.push({
      ...{ sequence, batch, issuedAt: entry === null ? null : new Date(entry.leaf.issuedAtMs).toISOString() },
      body: entry === null ? null : Buffer.from(entry.body).toString('utf8'),
    });
  }
  return { entries, nextBefore: rows.length < limit ? null : (rows.at(-1)?.sequence ?? null), waiting: audit.waiting };
}
