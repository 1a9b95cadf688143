// Owns: asking a person whether something that cannot be undone is meant, and what exactly.
// Invariants: only the word that is asked for means yes; without a terminal nobody is asked, and --yes must have been given.
import { createInterface } from 'node:readline/promises';
import { usage } from '#ctl/exit-codes.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';

/** Throws (exit code of wrong use) unless `word` was typed, or `isMeant` (--yes). */
export async function confirm(question: string, word: string, isMeant: boolean): Promise<void> {
  if (isMeant) return;
  const answer = await typed(question, `Type ${word} to go on: `, '--yes');
  if (answer !== word) throw usage('nothing was done');
}

/** What a person types, without blanks around it. Throws (exit code of wrong use) where nobody can be asked: `option` says it then. */
export async function typed(question: string, prompt: string, option: string): Promise<string> {
  if (process.stdin.isTTY !== true)
    throw usage(`${question} Without a terminal to ask at, ${option} says that it is meant.`, { field: option });
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return (await lines.question(`${question}\n${prompt}`)).trim();
  } catch (cause) {
    throw usage('nothing was done', { cause: asUkeyError(cause) });
  } finally {
    lines.close();
  }
}
