// Owns: files that ukeyctl writes.
// Invariants: a secret's file is made new and for its owner alone, before the secret exists, and is on disk before it is said to
// be. A secret is never overwritten: its file may be the only copy.
// Must not: print.
import { closeSync, fsyncSync, openSync, unlinkSync, writeFileSync } from 'node:fs';
import { usage } from '#ctl/exit-codes.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const ownerOnly = 0o600;

export interface SecretFile {
  /** Writes and syncs. */
  write(secret: string): void;
  /** Removes the empty file again. */
  discard(): void;
}

/** Makes the file, which must not exist. Throws usage. */
export function openSecretFile(file: string, option: string): SecretFile {
  let fd: number;
  try {
    fd = openSync(file, 'wx', ownerOnly);
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    throw usage(exists ? `${file} exists already` : `${file} cannot be made: ${String((cause as NodeJS.ErrnoException).code)}`, {
      field: option,
      action: exists ? 'Name another file, or remove this one first.' : 'Name a file in a folder that can be written to.',
      cause,
    });
  }
  return {
    write(secret) {
      writeFileSync(fd, secret);
      fsyncSync(fd);
      closeSync(fd);
    },
    discard() {
      closeSync(fd);
      unlinkSync(file);
    },
  };
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
