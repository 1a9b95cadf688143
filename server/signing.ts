// Owns: which keys may seal a token's ledger, out of what the database keeps: the enrolled one and those that have gone on with it.
import type { Signer, Signers } from '#ipc-schema/signers.ts';
import { openSuccession, signersOf } from '#ipc-schema/succession.ts';
import type { TokenRecord } from './database.ts';
import type { TicketParts } from './ticket.ts';

export interface LedgerKeys {
  /** By the batches that are theirs. */
  readonly signers: Signers;
  /** All that ever were: those too that another key took the place of before they were to seal. */
  readonly all: readonly Signer[];
}

export async function signersFor(
  { authority, database }: Pick<TicketParts, 'authority' | 'database'>,
  { tokenId, certificate }: Pick<TokenRecord, 'tokenId' | 'certificate'>,
): Promise<LedgerKeys> {
  const documents = (await database.successions(tokenId)).map(({ signed }) => signed);
  const signers = signersOf(certificate, documents, authority.publicKey);
  return { signers, all: [signers.list[0], ...documents.map((signed) => openSuccession(signed, authority.publicKey).signer)] };
}
