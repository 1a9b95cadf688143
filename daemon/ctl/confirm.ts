// Owns: asking a person whether something that cannot be undone is meant.
// Invariants: only the word that is asked for means yes; without a terminal nobody is asked, and --yes must have been given.
import { createInterface } from 'node:readline/promises';
import { usage } from '#ctl/exit-codes.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';

/** Throws (exit code of wrong use) unless `word` was typed, or `isMeant` (--yes). */
export async function confirm(question: string, word: string, isMeant: boolean): Promise<void> {
  if (isMeant) return;
  if (process.stdin.isTTY !== true)
    throw usage(`${question} Without a terminal to ask at, --yes says that it is meant.`, { field: '--yes' });
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const typed = await lines.question(`${question}\nType ${word} to go on: `);
    if (typed.trim() !== word) throw usage('nothing was done');
  } catch (thrown) {
    throw thrown instanceof UkeyError ? thrown : usage('nothing was done', { cause: asUkeyError(thrown) });
  } finally {
    lines.close();
  }
}
