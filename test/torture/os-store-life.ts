// Owns: the caller of a store that runs in another process (os-store-process.ts): starts it, reads what it tells, remembers what it
// was answered, and counts what was lost.
// Invariants: what is remembered comes from the told lines alone; an unfinished last line does not count.
import { type ChildProcess, spawn } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { openFileDevice } from '#store/device-file.ts';
import { formatStore } from '#store/log.ts';
import { formatOptions, randomSource } from '#test/store/rig.ts';

/** What the caller was answered, and what it has asked for besides. */
export interface Known {
  readonly acked: number;
  readonly tried: number;
  readonly released: number;
  readonly carried: number;
  readonly carriedTo: number;
}

export const nothingKnown: Known = { acked: 0, tried: 0, released: 0, carried: 0, carriedTo: 0 };

export interface Session {
  readonly flash: string;
  readonly mirror: string | null;
  readonly seed: number;
  readonly steps: number;
  readonly known: Known;
  readonly eager: boolean;
  /** Each side is read alone as well: after the opening has healed it, or before. */
  readonly checkSides: boolean;
  readonly sidesFirst: boolean;
}

export interface Outcome {
  readonly opened: boolean;
  /** Why it did not open, or why it stopped; null when killed or done. */
  readonly failure: string | null;
  readonly ended: boolean;
  readonly acked: number;
  /** Answered after the first failure. */
  readonly late: number;
  /** Frames, headers and carried strings that were put right. */
  readonly healed: number;
  readonly lost: readonly string[];
  readonly bad: readonly string[];
}

const program = path.join(import.meta.dirname, 'os-store-process.ts');
const sessionMaxMs = 60_000;

export interface RunOptions {
  /** Told the process id before the store is opened. */
  readonly onStart?: (pid: number) => void;
  /** Before the program, as `strace -f ...`. */
  readonly wrapping?: readonly string[];
}

export class StoreLife {
  readonly flash: string;
  readonly mirror: string | null;
  known: Known = nothingKnown;

  constructor(flash: string, mirror: string | null) {
    this.flash = flash;
    this.mirror = mirror;
  }

  /** A new store over whatever was there. The mirror is made anew by the next opening. */
  async begin(seed: number): Promise<void> {
    const random = randomSource(seed);
    for (const file of [this.flash, this.mirror]) {
      if (file === null) continue;
      const device = await openFileDevice(file);
      try {
        if (file === this.flash) await formatStore(device, { ...formatOptions, storeId: random(16), erase: true }, random);
        else await blank(device);
      } finally {
        await device.close();
      }
    }
    this.known = nothingKnown;
  }

  async run(session: Pick<Session, 'seed' | 'steps'> & Partial<Session>, options: RunOptions = {}): Promise<Outcome> {
    const whole: Session = {
      flash: this.flash,
      mirror: this.mirror,
      known: this.known,
      eager: false,
      checkSides: false,
      sidesFirst: false,
      ...session,
    };
    const lines = await this.#lines(whole, options);
    return this.#read(lines);
  }

  #lines(session: Session, { onStart, wrapping = [] }: RunOptions): Promise<readonly string[]> {
    const [command = process.execPath, ...args] = [...wrapping, process.execPath, program, JSON.stringify(session)];
    // Compiled once: most of a session would else be reading its own source.
    const env = { ...process.env, NODE_COMPILE_CACHE: path.join(os.tmpdir(), 'ukeyd-torture-compile-cache') };
    const child: ChildProcess = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    if (child.pid !== undefined) onStart?.(child.pid);
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), sessionMaxMs);
      child.once('error', reject);
      child.once('close', () => {
        clearTimeout(timer);
        resolve(text.split('\n').slice(0, -1));
      });
    });
  }

  #read(lines: readonly string[]): Outcome {
    const outcome = { opened: false, failure: null as string | null, ended: false, acked: 0, late: 0, healed: 0 };
    const lost: string[] = [];
    const bad: string[] = [];
    for (const line of lines) {
      const [kind = '', ...words] = line.split(' ');
      const number = Number(words[0]);
      const { known } = this;
      switch (kind) {
        case 'open':
          outcome.opened = true;
          outcome.healed = Number(words[2]);
          // What was not answered and is there stays there.
          this.known = { ...known, acked: number - 1, tried: number - 1, carried: Number(words[1]), carriedTo: Number(words[1]) };
          break;
        case 'try':
          this.known = { ...known, tried: Math.max(known.tried, number) };
          break;
        case 'ack':
          outcome.acked += 1;
          this.known = { ...known, acked: Math.max(known.acked, number) };
          break;
        case 'release':
          this.known = { ...known, released: Math.max(known.released, number) };
          break;
        case 'carry':
          this.known = { ...known, carriedTo: number };
          break;
        case 'carried':
          this.known = { ...known, carried: number };
          break;
        case 'failed':
        case 'closed':
          outcome.failure = words.join(' ');
          break;
        case 'late':
          outcome.late += 1;
          break;
        case 'lost':
          lost.push(line);
          break;
        case 'end':
          outcome.ended = true;
          break;
        default:
          bad.push(line);
      }
    }
    return { ...outcome, lost, bad };
  }
}

const blankChunkBytes = 1024 * 1024;

async function blank(device: Awaited<ReturnType<typeof openFileDevice>>): Promise<void> {
  for (let at = 0; at < device.sizeBytes; at += blankChunkBytes)
    await device.writeAndSync(at, Buffer.alloc(Math.min(blankChunkBytes, device.sizeBytes - at)));
}
