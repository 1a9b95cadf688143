// Owns: what ukeyctl writes: the answer on stdout (one JSON value with --json, else text for people), notes and failures on stderr.
// Invariants: with --json stdout holds one JSON value and nothing else, also when the command fails ({"error": …}): what fails behind the
// answer is told on stderr alone; text that came from elsewhere never reaches a terminal with control characters in it. A reader that
// goes away changes neither what is done nor the exit status.
// Must not: know any command or read anything.
import { type Exit, endingOf, exitCodes } from '#ctl/exit-codes.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

export interface Screen {
  readonly json: boolean;
  /** Whether stdout is a terminal that understands colours. */
  readonly colours: boolean;
  /** Columns of the terminal behind stdout, or null. */
  readonly widthColumns: number | null;
  /** The command's one answer, and what the process ends with when it is not `done`. */
  answer(value: object, text: string, exit?: Exit): void;
  /** The answer as it is, to the byte; not for --json. */
  exact(text: string): void;
  /** A line on stderr for whoever watches; never the answer. */
  note(text: string): void;
}

/** stdout is the process's: whether its answer was given, and why it could not take what was written. */
let isAnswered = false;
let refused: NodeJS.ErrnoException | null = null;

const noteRefusal = (error: NodeJS.ErrnoException | null | undefined): void => {
  refused ??= error ?? null;
};

/** To be called once, before anything is written: a stream's error that nobody hears would end the process. */
export function watchOutput(): void {
  process.stdout.on('error', noteRefusal);
  // Who does not read stderr is not to be told anything.
  process.stderr.on('error', () => undefined);
}

/** Throws internal when stdout could not take what was written to it. A reader that went away (`| head`) has what it wanted, unless this was the only copy. */
export async function outputTaken(isOnlyCopy = false): Promise<void> {
  await new Promise<void>((resolve) => process.stdout.write('', () => resolve()));
  if (refused === null || (refused.code === 'EPIPE' && !isOnlyCopy)) return;
  throw new UkeyError('internal', `stdout could not be written: ${String(refused.code)}`, {
    action: 'The command was carried out; its answer was lost.',
    cause: refused,
  });
}

export function openScreen(json: boolean): Screen {
  const { stdout } = process;
  return {
    json,
    colours: stdout.isTTY === true && stdout.hasColors(),
    widthColumns: stdout.isTTY === true ? stdout.columns : null,
    answer: (value, text, exit = 'done') => {
      isAnswered = true;
      stdout.write(json ? `${JSON.stringify(value)}\n` : text.endsWith('\n') ? text : `${text}\n`, noteRefusal);
      process.exitCode = exitCodes[exit].status;
    },
    exact: (text) => void stdout.write(text, noteRefusal),
    note: (text) => void process.stderr.write(`${plain(text)}\n`),
  };
}

/** `code: message (field) - what to do` on stderr, the same as JSON on stdout where JSON was asked for and nothing answered yet. Gives the exit status. */
export function printFailure(screen: Screen, thrown: unknown): number {
  const { error, exit, facts } = endingOf(thrown);
  const field = error.field === undefined || error.message.includes(error.field) ? '' : ` (${error.field})`;
  screen.note(`${error.code}: ${error.message}${field} - ${error.action}`);
  if (screen.json && !isAnswered) {
    const { status } = exitCodes[exit];
    screen.answer({ error: { ...error.toData(), message: error.message, exit, status, ...facts } }, '', exit);
  }
  return exitCodes[exit].status;
}

/** Text from elsewhere, fit for a terminal: no control characters (they could move the cursor or rewrite what stands there), no direction marks. */
export function plain(text: string): string {
  return text.replace(/[^\P{Cc}\n]|[\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, '\ufffd');
}

/** Rows of a name and what is said of it; rows without a value are left out. */
export function facts(rows: readonly (readonly [name: string, value: string | null])[]): string {
  const said = rows.filter((row): row is readonly [string, string] => row[1] !== null && row[1] !== '');
  const width = Math.max(0, ...said.map(([name]) => name.length));
  return said.map(([name, value]) => `${name.padEnd(width)}  ${plain(value).replaceAll('\n', ' ')}\n`).join('');
}

/** Columns under headings; those that hold figures are set to the right. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[], figures: readonly number[] = []): string {
  const cells = [headings, ...rows].map((row) => row.map((cell) => plain(cell).replaceAll('\n', ' ')));
  const widths = headings.map((_, at) => Math.max(...cells.map((row) => (row[at] ?? '').length)));
  const lines = cells.map((row) =>
    widths
      .map((width, at) => (figures.includes(at) ? (row[at] ?? '').padStart(width) : (row[at] ?? '').padEnd(width)))
      .join('  ')
      .trimEnd(),
  );
  return `${lines.join('\n')}\n`;
}

/** `1 invoice`, `2 invoices`. */
export function counted(count: number, singular: string, plural = `${singular}s`): string {
  return `${count} ${count === 1 ? singular : plural}`;
}
