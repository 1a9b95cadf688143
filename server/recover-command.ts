// Owns: `ticket-server recover`: a recovery ticket for a ledger whose token died; or, with the recovery key in hand, the answer that such a
// ledger waits for where that key was moved away from the server.
// Invariants: the code goes to the file (0600) or to standard output; nothing of the recovery key is kept or told.
import { readFileSync } from 'node:fs';
import { UkeyError } from '#ipc-schema/errors.ts';
import { openRecoveryKey } from './authority.ts';
import { createNew } from './key-file.ts';
import { answerWaiting, makeRecoveryTicket } from './recovery.ts';
import type { TicketParts } from './ticket.ts';

export interface RecoverOptions {
  readonly tokenId: string;
  /** Where the ticket goes; null: standard output. */
  readonly file: string | null;
  readonly supersede: boolean;
  /** File with the recovery key: answers what waits, and makes no ticket. */
  readonly recoveryKey: string | null;
}

/** Throws invalid-request for what the person can mend. */
export async function recover(parts: TicketParts, options: RecoverOptions): Promise<void> {
  const { tokenId, file, supersede, recoveryKey } = options;
  if (recoveryKey !== null) {
    const answered = await answerWaiting(parts, tokenId, openRecoveryKey(parts.authority, readKey(recoveryKey)));
    process.stdout.write(`${JSON.stringify({ token: tokenId, answered })}\n`);
    return;
  }
  const ticket = await makeRecoveryTicket(parts, { tokenId, supersedes: supersede });
  const text = `${JSON.stringify(ticket)}\n`;
  if (file === null) process.stdout.write(text);
  else createNew(file, Buffer.from(text, 'utf8'));
}

function readKey(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new UkeyError('invalid-request', `the file ${file} cannot be read: ${String((cause as NodeJS.ErrnoException).code)}`, { cause });
  }
}
