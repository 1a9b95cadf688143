// Owns: replacing a small file of the state folder so that a power cut leaves the old or the new content, whole.
// Invariants: new file, synced, renamed over the old one, folder synced; mode 0600.
import { closeSync, fsyncSync, openSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { stateFault } from './state-fault.ts';

/** Throws halted where the system says why it does not take the file: no room, no right. */
export function writeDurably(file: string, content: string): void {
  try {
    replace(file, content);
  } catch (thrown) {
    throw stateFault(thrown, file);
  }
}

function replace(file: string, content: string): void {
  const fresh = `${file}.new`;
  const descriptor = openSync(fresh, 'w', 0o600);
  try {
    writeFileSync(descriptor, content);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(fresh, file);
  const folder = openSync(path.dirname(file), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
