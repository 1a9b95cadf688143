// Owns: the peer: SQLCipher of the system, driven by a small C program that is compiled when it is wanted.
// Invariants: nothing of it is a dependency of the product; where compiler or library is missing the answer says what to install.
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export interface PeerFigures {
  readonly perSecond: number;
  /** Database after everything was moved into it. */
  readonly fileBytes: number;
  readonly walBytes: number;
  /** Given to write calls, log and file together. */
  readonly writtenBytes: number;
}

export type Peer =
  | { readonly kind: 'present'; readonly version: string; run(count: number): Promise<PeerFigures> }
  | { readonly kind: 'absent'; readonly why: string };

const install = 'install gcc and SQLCipher (Debian: apt-get install gcc libsqlcipher-dev)';

/** `bodies`: the documents that are put into it, in turns. */
export async function sqlCipher(folder: string, bodies: readonly string[]): Promise<Peer> {
  const program = path.join(folder, 'sqlcipher-peer');
  const source = fileURLToPath(new URL('./sqlcipher.c', import.meta.url));
  if (!existsSync(program)) {
    const flags = ['-O2', '-DSQLITE_HAS_CODEC', '-I/usr/include/sqlcipher', '-o', program, source, '-lsqlcipher'];
    const built = spawnSync('cc', flags, { encoding: 'utf8' });
    if (built.error !== undefined || built.status !== 0) return { kind: 'absent', why: install };
  }
  const bodiesFile = path.join(folder, 'bodies');
  writeFileSync(bodiesFile, Buffer.concat(bodies.flatMap((body) => [lengthOf(body), Buffer.from(body, 'utf8')])));
  const run = async (count: number): Promise<PeerFigures & { readonly version: string }> => {
    const database = path.join(folder, 'peer.db');
    for (const suffix of ['', '-wal', '-shm']) rmSync(database + suffix, { force: true });
    const done = spawnSync(program, [database, bodiesFile, String(count)], { encoding: 'utf8' });
    if (done.status !== 0) throw new Error(`the SQLCipher peer failed: ${done.stderr}`);
    const [seconds = 0, fileBytes = 0, walBytes = 0, writtenBytes = 0] = done.stdout.split(' ').map(Number);
    for (const suffix of ['', '-wal', '-shm']) rmSync(database + suffix, { force: true });
    return { perSecond: count / seconds, fileBytes, walBytes, writtenBytes, version: done.stdout.trim().split(' ')[4] ?? '' };
  };
  const { version } = await run(Math.min(bodies.length, 50));
  return { kind: 'present', version: `(SQLite ${version})`, run };
}

function lengthOf(body: string): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(Buffer.byteLength(body));
  return bytes;
}
