// Owns: files of the data directory that hold secrets: how they come into being and how they are replaced.
// Invariants: mode 0600 in a directory of mode 0700; a reader sees a whole file or none; `createOnce` never replaces what is there, so that two
// processes that start at once agree on the one that won.
// Must not: know what is inside.
import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

const fileMode = 0o600;
const directoryMode = 0o700;

export function isErrno(thrown: unknown, code: string): boolean {
  return thrown instanceof Error && (thrown as NodeJS.ErrnoException).code === code;
}

export function makeDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: directoryMode });
}

/** The file's bytes, or null when there is none. */
export function readIfThere(path: string): Uint8Array | null {
  try {
    return readFileSync(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
}

/** Creates the file unless it is there; gives the bytes that are in it afterwards, ours or the winner's. */
export function createOnce(path: string, bytes: Uint8Array): Uint8Array {
  const draft = writeDraft(path, bytes);
  try {
    linkSync(draft, path); // a crash before this line leaves a draft that nobody reads, after it the whole file
  } catch (thrown) {
    if (!isErrno(thrown, 'EEXIST')) throw thrown;
  } finally {
    unlinkSync(draft);
  }
  syncDirectory(dirname(path));
  return readFileSync(path);
}

/** Puts `bytes` in the place of whatever is there: old or new, never half. */
export function replaceFile(path: string, bytes: Uint8Array): void {
  renameSync(writeDraft(path, bytes), path);
  syncDirectory(dirname(path));
}

/** Creates a new file; refuses (EEXIST) to touch one that is there. */
export function createNew(path: string, bytes: Uint8Array): void {
  const draft = writeDraft(path, bytes);
  try {
    linkSync(draft, path);
  } finally {
    unlinkSync(draft);
  }
  syncDirectory(dirname(path));
}

function writeDraft(path: string, bytes: Uint8Array): string {
  const draft = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.draft`;
  const fd = openSync(draft, 'wx', fileMode);
  try {
    writeFileSync(fd, bytes);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  return draft;
}

function syncDirectory(path: string): void {
  if (process.platform === 'win32') return; // a directory cannot be opened for a flush there
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
