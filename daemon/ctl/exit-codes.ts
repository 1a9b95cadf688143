// Owns: the table of ukeyctl's exit statuses, and how a failure gets the one that it ends with.
// Invariants: a status keeps its meaning for ever: scripts branch on it. The code inside the error (ipc-schema/errors.ts) says
// what happened; the status says which step it happened in, because `invalid-request` from a service and from a mistyped
// option are repaired in different places.
// Must not: print, or end the process.
import { asUkeyError, type ErrorDetail, UkeyError } from '#ipc-schema/errors.ts';

export interface ExitRule {
  readonly status: number;
  readonly meaning: string;
}

export const exitCodes = {
  done: { status: 0, meaning: 'done; of verify: everything holds' },
  internal: { status: 1, meaning: 'a fault of ukeyctl itself' },
  usage: { status: 2, meaning: 'the command line, or a file that it names, is not right; nothing was sent' },
  refused: { status: 3, meaning: 'the service (or, for verify --store, the token) refused: the code says why' },
  unreachable: { status: 4, meaning: 'the service cannot be reached; nothing was sent' },
  unverified: { status: 5, meaning: 'of verify: something does not hold; of store: something is damaged' },
  unknown: { status: 6, meaning: 'whether it happened is not known: repeat with the same key' },
  unready: { status: 7, meaning: 'of health: no document can be issued now; the answer says why' },
  unfinished: {
    status: 8,
    meaning: 'it was done (of issue: it IS issued), but what came of it could not be given out: the error says what to do',
  },
} as const satisfies Record<string, ExitRule>;

export type Exit = keyof typeof exitCodes;

/** More members of the error in `--json`: figures such as the tries left. */
export type Facts = Readonly<Record<string, string | number | null>>;

interface Ending {
  readonly exit: Exit;
  readonly facts: Facts;
}

/** Kept beside the errors, so that there is one error class in the product. */
const endings = new WeakMap<UkeyError, Ending>();

/** The failure of the step that it came from; a step inside that said so before keeps its word. */
export function endAs(exit: Exit, thrown: unknown, facts: Facts = {}): UkeyError {
  const error = asUkeyError(thrown);
  const known = endings.get(error);
  endings.set(error, { exit: known?.exit ?? exit, facts: { ...known?.facts, ...facts } });
  return error;
}

/** Runs a step whose failures end with `exit`. */
export async function endingAs<T>(exit: Exit, step: () => T | Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (thrown) {
    throw endAs(exit, thrown);
  }
}

export function endingOf(thrown: unknown): Ending & { readonly error: UkeyError } {
  const error = asUkeyError(thrown);
  return { error, ...(endings.get(error) ?? { exit: 'internal', facts: {} }) };
}

/** What was typed, or the file that it names, is not right. */
export function usage(message: string, detail: ErrorDetail = {}): UkeyError {
  return endAs('usage', new UkeyError('invalid-request', message, { action: 'See --help of this command.', ...detail }));
}
