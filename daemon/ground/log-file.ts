// Owns: a log file of bounded size: when it is full it becomes FILE.1, that FILE.2, and the oldest is forgotten.
// Why not a rotating transport of the log's package: that one is a stream, which is of no use any more after its first error; here a disk that was full for
// a while costs the lines of that while and no more (log.ts counts them).
// Invariants: at most `files` files of `fileBytes` each; a line stands whole in one file; what cannot be written is thrown, and the next line tries anew.
import { closeSync, fstatSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { UkeyError } from '#ipc-schema/errors.ts';

const fileMode = 0o640;
const lineFeed = 0x0a;

export class LogFile {
  readonly #path: string;
  readonly #fileBytes: number;
  readonly #files: number;
  #descriptor: number | null = null;
  #bytes = 0;
  #isLineStart = true;

  /** Throws invalid-request when it cannot be opened. */
  constructor(options: { readonly path: string; readonly fileBytes: number; readonly files: number }) {
    this.#path = options.path;
    this.#fileBytes = options.fileBytes;
    this.#files = options.files;
    try {
      this.#open();
    } catch (cause) {
      throw new UkeyError('invalid-request', `log.file: ${this.#path} cannot be written`, {
        field: 'log.file',
        action: 'Name a file in a folder that the service may write to.',
        cause,
      });
    }
  }

  /** Some of the bytes; how many. */
  write(bytes: Uint8Array): number {
    if (this.#isLineStart && this.#bytes > 0 && this.#bytes + bytes.length > this.#fileBytes) this.#rotate();
    const descriptor = this.#descriptor ?? this.#open();
    const count = writeSync(descriptor, bytes);
    this.#bytes += count;
    if (count > 0) this.#isLineStart = bytes[count - 1] === lineFeed;
    return count;
  }

  #open(): number {
    const descriptor = openSync(this.#path, 'a', fileMode);
    this.#descriptor = descriptor;
    this.#bytes = fstatSync(descriptor).size;
    return descriptor;
  }

  #rotate(): void {
    if (this.#descriptor !== null) closeSync(this.#descriptor);
    this.#descriptor = null;
    if (this.#files === 1) rmSync(this.#path, { force: true });
    for (let at = this.#files - 1; at >= 1; at -= 1) this.#rename(at === 1 ? this.#path : `${this.#path}.${at - 1}`, `${this.#path}.${at}`);
    this.#open();
  }

  #rename(from: string, to: string): void {
    try {
      renameSync(from, to);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // there were not so many yet
    }
  }
}
