// Owns: where an export goes: stdout, or FILE.part, which becomes FILE when it is whole.
// Invariants: FILE is its owner's alone; it is never half an export, and an export that is there is never overwritten; FILE exists only after its bytes are on the disk;
// FILE.part stays when anything goes wrong, and whatever its end looks like, reading it tells how much of it is good.
import { constants, existsSync } from 'node:fs';
import { type FileHandle, open, rename } from 'node:fs/promises';
import path from 'node:path';
import { usage } from '#ctl/exit-codes.ts';
import { stdinName } from '#ctl/input.ts';
import type { UkeyError } from '#ipc-schema/errors.ts';

export interface Sink {
  /** Resolves when there is room for more. Throws usage when it cannot be written. */
  write(bytes: Uint8Array): Promise<void>;
  /** Whole: on the disk, under its name. */
  finish(): Promise<void>;
  close(): Promise<void>;
}

/** Documents name buyers. */
const ownerOnly = 0o600;

export const partOf = (file: string): string => `${file}.part`;

/** Throws usage when the export is there already, or half of one and `resume` was not asked for. */
export function checkPlace(file: string, resume: boolean): void {
  if (file === stdinName) {
    if (resume) throw usage('what went to stdout cannot be resumed', { field: '--resume' });
    return;
  }
  if (existsSync(file))
    throw usage(`${file} exists already`, { field: '--output', action: 'Name another file, or remove this one first.' });
  if (!resume && existsSync(partOf(file)))
    throw usage(`${partOf(file)} is what an export that was interrupted has left`, {
      field: '--output',
      action: 'Go on with it by the same command with --resume, or remove it.',
    });
}

/** `keepBytes`: so much of FILE.part stays; null: a new one. */
export async function openSink(file: string, keepBytes: number | null): Promise<Sink> {
  if (file === stdinName) return stdoutSink;
  const part = partOf(file);
  const guarded = async <T>(step: () => Promise<T>): Promise<T> => {
    try {
      return await step();
    } catch (cause) {
      throw unwritable(part, cause);
    }
  };
  const handle = await guarded(() => open(part, keepBytes === null ? 'wx' : constants.O_WRONLY | constants.O_CREAT, ownerOnly));
  let at = keepBytes ?? 0;
  try {
    if (keepBytes !== null) await guarded(() => handle.truncate(keepBytes));
  } catch (thrown) {
    await handle.close();
    throw thrown;
  }
  return {
    write: (bytes) =>
      guarded(async () => {
        for (let done = 0; done < bytes.length; ) {
          const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, at);
          done += bytesWritten;
          at += bytesWritten;
        }
      }),
    finish: () =>
      guarded(async () => {
        await handle.sync();
        await rename(part, file);
        await syncFolder(path.dirname(file));
      }),
    close: () => handle.close(),
  };
}

const stdoutSink: Sink = {
  write: (bytes) =>
    new Promise((resolve, reject) => {
      process.stdout.write(bytes, (cause) => (cause === null || cause === undefined ? resolve() : reject(unwritable('stdout', cause))));
    }),
  finish: async () => undefined,
  close: async () => undefined,
};

/** The new name is on the disk too; where folders cannot be opened (Windows) the system sees to that. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  let handle: FileHandle | null = null;
  try {
    handle = await open(folder, 'r');
    await handle.sync();
  } finally {
    await handle?.close();
  }
}

function unwritable(what: string, cause: unknown): UkeyError {
  const code = String((cause as NodeJS.ErrnoException).code);
  if (code === 'EPIPE')
    return usage('nobody reads stdout any more: it is no whole export', { field: '--output', action: 'Name a file with --output.', cause });
  const isFull = code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG';
  return usage(`${what} cannot be written: ${isFull ? 'there is no more room' : code}`, {
    field: '--output',
    action: isFull ? 'Make room, then go on by the same command with --resume.' : 'Name a file in a folder that can be written to.',
    cause,
  });
}
