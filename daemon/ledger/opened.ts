// Owns: an open ledger with its index, and their end.
import type { UkeyError } from '#ipc-schema/errors.ts';
import type { Ledger } from './ledger.ts';
import type { LedgerIndex } from './ledger-index.ts';

export interface Opened {
  readonly ledger: Ledger;
  readonly index: LedgerIndex;
}

/** Who waits for the ledger gets `why`; the index writes what it has. */
export async function shut({ ledger, index }: Opened, why: UkeyError): Promise<void> {
  ledger.close(why);
  await index.close();
}
