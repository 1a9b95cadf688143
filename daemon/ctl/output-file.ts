// Owns: files that ukeyctl writes.
// Invariants: a secret's file is made new and for its owner alone, and has its room on the disk, before the secret exists; it is on disk
// before it is said to be. A secret is never overwritten: its file may be the only copy.
// Must not: print.
import { closeSync, fsyncSync, openSync, unlinkSync, writeFileSync, writeSync } from 'node:fs';
import { usage } from '#ctl/exit-codes.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { secretBytes } from '#ipc-schema/handshake.ts';

const ownerOnly = 0o600;

export interface SecretFile {
  /** Writes a line of its own and syncs. Throws internal. */
  write(secret: string): void;
  /** Removes the file again. */
  discard(): void;
}

/** As long as a secret in hex with its line end, and none itself. */
const placeholder = `${'-'.repeat(2 * secretBytes)}\n`;

/** Makes the file, which must not exist, and takes its room on the disk. Throws usage. */
export function openSecretFile(file: string, option: string): SecretFile {
  let fd: number;
  try {
    fd = openSync(file, 'wx', ownerOnly);
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    if (!exists) throw unwritable(file, option, cause);
    throw usage(`${file} exists already`, { field: option, action: 'Name another file, or remove this one first.', cause });
  }
  const discard = (): void => {
    closeSync(fd);
    unlinkSync(file);
  };
  try {
    writeOver(fd, placeholder);
  } catch (cause) {
    discard();
    throw unwritable(file, option, cause);
  }
  return {
    write(secret) {
      try {
        writeOver(fd, `${secret}\n`);
      } catch (cause) {
        throw new UkeyError('internal', `${file} cannot be written: ${String((cause as NodeJS.ErrnoException).code)}`, { cause });
      }
      closeSync(fd);
    },
    discard,
  };
}

/** From the beginning on, and to the disk. */
function writeOver(fd: number, text: string): void {
  const bytes = Buffer.from(text, 'latin1');
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
  fsyncSync(fd);
}

export interface OutputFile {
  /** Once. */
  write(text: string): void;
}

/** A file that holds no secret and can be had again. Throws usage at once when it cannot be written; what stands in it stays until `write`. */
export function openOutputFile(file: string, option: string): OutputFile {
  try {
    closeSync(openSync(file, 'a'));
  } catch (cause) {
    throw unwritable(file, option, cause);
  }
  return { write: (text) => writeFile(file, text, option) };
}

/** The same in one go. Throws usage. */
export function writeFile(file: string, text: string, option: string): void {
  try {
    writeFileSync(file, text, { flush: true });
  } catch (cause) {
    throw unwritable(file, option, cause);
  }
}

function unwritable(file: string, option: string, cause: unknown): UkeyError {
  return usage(`${file} cannot be written: ${String((cause as NodeJS.ErrnoException).code)}`, {
    field: option,
    action: 'Name a file in a folder that can be written to.',
    cause,
  });
}

/** For an answer of the service that lacks what this command needs. */
export function incomplete(what: string): UkeyError {
  return new UkeyError('internal', `the service's answer lacks ${what}`);
}
