// Owns: looking for secrets in the memory of a process of ours, as a core image would hold it: all that is writable. Linux.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

const chunkBytes = 4 * 1024 * 1024;

/** How often each of the secrets stands in the writable memory of the process. */
export function hitsIn(pid: number, secrets: Readonly<Record<string, Buffer>>): Record<string, number> {
  const hits = Object.fromEntries(Object.keys(secrets).map((name) => [name, 0]));
  const longest = Math.max(...Object.values(secrets).map((secret) => secret.length));
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  const chunk = Buffer.alloc(chunkBytes);
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const [range = '', rights = ''] = line.split(' ');
      if (!rights.startsWith('rw')) continue;
      const [from = 0, to = 0] = range.split('-').map((text) => Number.parseInt(text, 16));
      // Chunks overlap, so that nothing hides at their border.
      for (let at = from; at < to; at += chunkBytes - longest + 1) {
        const seen = chunk.subarray(0, readAt(memory, chunk, at, Math.min(chunkBytes, to - at)));
        for (const [name, secret] of Object.entries(secrets)) if (seen.includes(secret)) hits[name] = (hits[name] ?? 0) + 1;
      }
    }
    return hits;
  } finally {
    closeSync(memory);
  }
}

/** A region that was given back meanwhile, or is the device's, holds nothing of ours. */
function readAt(memory: number, into: Buffer, at: number, bytes: number): number {
  try {
    return readSync(memory, into, 0, bytes, at);
  } catch {
    return 0;
  }
}
