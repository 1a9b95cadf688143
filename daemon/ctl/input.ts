// Owns: reading what a command line names: files, and `-` for stdin.
// Invariants: every read has a maximum; stdin is read by one thing at most, so that a PIN and a document are never mixed up.
// Must not: read secrets (prompt.ts does) or print.
import { createReadStream } from 'node:fs';
import { usage } from '#ctl/exit-codes.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson, jsonLimits } from '#ipc-schema/json.ts';

export const stdinName = '-';

let stdinTaken: string | null = null;

/** What takes stdin for prompts, which come one after the other. */
export const promptInput = 'a prompt';

/** Throws usage when something else reads stdin already. */
export function takeStdin(what: string): void {
  if (stdinTaken !== null && !(stdinTaken === promptInput && what === promptInput))
    throw usage(`${what} and ${stdinTaken} cannot both come from stdin`, { field: what });
  stdinTaken = what;
}

/** All bytes of a file, or of stdin. Throws usage when it cannot be read or is longer than `maxBytes`. */
export async function readInput(file: string, what: string, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of openInput(file, what)) {
      const bytes = chunk as Buffer;
      length += bytes.length;
      if (length > maxBytes) break;
      chunks.push(bytes);
    }
  } catch (cause) {
    throw unreadable(file, what, cause);
  }
  if (length > maxBytes) throw usage(`${what} ${nameOf(file)} has more than ${maxBytes} bytes`, { field: what });
  return Buffer.concat(chunks);
}

/** One JSON value, strictly read (json.ts). */
export async function readJson(file: string, what: string, maxBytes: number = jsonLimits.maxBytes): Promise<unknown> {
  const bytes = await readInput(file, what, maxBytes);
  try {
    return decodeJson(bytes, { ...jsonLimits, maxBytes });
  } catch (thrown) {
    const error = asUkeyError(thrown);
    throw usage(`${what} ${nameOf(file)}: ${error.message}`, { field: error.field ?? what, cause: error, action: 'Correct the file.' });
  }
}

/** A file read piece by piece: it may be larger than memory. */
export interface InputPieces {
  /** Bytes given out so far. */
  readonly takenBytes: number;
  /** The next bytes, which stay; fewer than asked for only at the end. */
  peek(bytes: number): Promise<Buffer>;
  /** The next bytes, and past them. Throws invalid-request when the file ends before. */
  take(bytes: number): Promise<Buffer>;
  /** The next line without its end, or null at the end of the file. Throws usage when it is longer than `maxBytes`. */
  line(maxBytes: number): Promise<Buffer | null>;
  [Symbol.dispose](): void;
}

const pieceBytes = 1024 * 1024;

/** Opens when first read. Every read throws usage when the file cannot be read. */
export function openPieces(file: string, what: string): InputPieces {
  const stream = file === stdinName ? process.stdin : createReadStream(file, { highWaterMark: pieceBytes });
  if (file === stdinName) takeStdin(what);
  const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>;
  let held: Buffer = Buffer.alloc(0);
  let takenBytes = 0;
  /** False at the end of the file. */
  const more = async (): Promise<boolean> => {
    try {
      const { value, done } = await chunks.next();
      if (done === true) return false;
      held = held.length === 0 ? value : Buffer.concat([held, value]);
      return true;
    } catch (cause) {
      throw unreadable(file, what, cause);
    }
  };
  const cut = (bytes: number): Buffer => {
    const piece = held.subarray(0, bytes);
    held = held.subarray(bytes);
    takenBytes += bytes;
    return piece;
  };
  const peek = async (bytes: number): Promise<Buffer> => {
    while (held.length < bytes && (await more()));
    return held.subarray(0, bytes);
  };
  return {
    get takenBytes() {
      return takenBytes;
    },
    peek,
    async take(bytes) {
      if ((await peek(bytes)).length < bytes) throw new UkeyError('invalid-request', `${what} ${nameOf(file)} is cut off`, { field: what });
      return cut(bytes);
    },
    async line(maxBytes) {
      let searched = 0;
      for (let end = held.indexOf(0x0a); ; end = held.indexOf(0x0a, searched)) {
        if (end >= 0) return withoutEnd(cut(end + 1));
        searched = held.length;
        if (searched > maxBytes) throw usage(`${what} ${nameOf(file)} has a line of more than ${maxBytes} bytes`, { field: what });
        if (!(await more())) return held.length === 0 ? null : cut(held.length);
      }
    },
    [Symbol.dispose]: () => void stream.destroy(),
  };
}

function withoutEnd(line: Buffer): Buffer {
  return line.subarray(0, line.at(-2) === 0x0d ? -2 : -1);
}

function openInput(file: string, what: string): AsyncIterable<unknown> {
  if (file !== stdinName) return createReadStream(file);
  takeStdin(what);
  return process.stdin;
}

function unreadable(file: string, what: string, cause: unknown): Error {
  const { code } = cause as NodeJS.ErrnoException;
  // Ours already (a line too long), or a fault of the caller's code.
  if (cause instanceof Error && (typeof code !== 'string' || !/^E[A-Z]+$/.test(code))) return cause;
  return usage(`${what} ${nameOf(file)} cannot be read: ${String(code)}`, { field: what, cause, action: 'Name a readable file.' });
}

function nameOf(file: string): string {
  return file === stdinName ? 'from stdin' : file;
}
