// Owns: the errands invoice.get and invoice.last: an issued document, byte for byte as it was answered the first time.
import { isFiscal } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { keyHashOf } from '#ledger/lookup.ts';
import { answer, budgetOf, charterOf, textsOf } from './issue.ts';

type Which = Parameters<Ledger['find']>[0];

export function get(custody: Custody, terminal: string | null, which: Params<'invoice.get'>): Promise<Result<'invoice.get'>> {
  if (!('key' in which)) return found(custody, which);
  if (terminal === null) throw new UkeyError('not-found', 'key: keys belong to terminals; ask by number or sequence', { field: 'key' });
  return found(custody, { keyHash: keyHashOf(terminal, which.key) });
}

export function last(custody: Custody, terminal: string | null): Promise<Result<'invoice.last'>> {
  return found(custody, { newestOf: terminal });
}

async function found(custody: Custody, which: Which): Promise<Result<'invoice.get'>> {
  const ledger = await custody.use();
  const committed = await ledger.find(which);
  if (!isFiscal(committed.leaf.kind)) throw new UkeyError('not-found', 'this entry is not a document');
  const isAcknowledged = committed.batchIndex <= ledger.tip.ackedBatch;
  return answer({ ...committed, repeated: true }, textsOf(committed, charterOf(ledger), false), budgetOf(custody), isAcknowledged);
}
