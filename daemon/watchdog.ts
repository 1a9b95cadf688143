// Owns: what the service tells its manager (sd_notify(3) of systemd): ready, its standing, that it makes progress, that it ends.
// Invariants: progress is proven before it is told: a hello goes in through the real admin socket and its answer, the standing, comes back, so that event loop,
// door, parser and ledger have all taken part. It is the admin door because tills cannot crowd that one: no till can have the service killed. It waits for no
// token: one that is busy for an hour (a restore) is no reason to kill anybody.
// A holder that hangs or dies is its parent's to replace (holder/parent); only a holder that shows no state for minutes counts as no progress.
// Node has no datagram sockets of the local kind: systemd-notify(1) sends for us, which is why the unit says NotifyAccess=all.
// Must not: know what a standing means. Where no manager asks, nothing of this runs.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type Log, whyOf } from '#ground/log.ts';
import { connect } from '#ipc-schema/client.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

/** The manager's wish, as it stood in the environment. */
export interface ManagerWish {
  readonly notifySocket: string;
  /** What it waits for a sign of progress; null: it does not. */
  readonly watchdogMs: number | null;
}

export interface WatchdogParts {
  readonly wish: ManagerWish;
  readonly log: Log;
  /** Proves progress. Rejects, or never resolves, where nothing moves. */
  ask(): Promise<void>;
  /** What the manager shows. */
  line(): string;
  /** How long the holder has shown no state. */
  holderSilentMs(): number;
  /** Tests pass another way to the manager. */
  send?(assignments: readonly string[]): Promise<void>;
}

/** Asked so often within the manager's patience: one answer may fail without harm. */
const beatsPerPatience = 3;
/** Without a watchdog the line of the standing is still kept fresh. */
const beatLongestMs = 20_000;
const sendWaitMs = 10_000;
/** A holder is started anew at most every 30 s and shows itself within 15 s; nobody can issue meanwhile, so a restart takes nothing away. */
export const holderSilentMaxMs = 600_000;

const notifyTool = 'systemd-notify';
const run = promisify(execFile);

/** Takes the manager's variables out of the environment, so that no child of ours speaks in our name. null: no manager asks. */
export function takeWish(env: NodeJS.ProcessEnv, pid: number): ManagerWish | null {
  const { NOTIFY_SOCKET: notifySocket, WATCHDOG_USEC: patience, WATCHDOG_PID: addressee } = env;
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
  if (notifySocket === undefined || notifySocket === '') return null;
  const isOurs = addressee === undefined || addressee === String(pid);
  const watchdogMs = isOurs && /^[1-9]\d{0,15}$/.test(patience ?? '') ? Number(patience) / 1_000 : null;
  return { notifySocket, watchdogMs };
}

/** A connection of its own each time, because accepting is part of the proof. */
export async function greet(adminSocketPath: string): Promise<void> {
  const client = await connect({ socketPath: adminSocketPath, client: 'ukeyd-watchdog' });
  client.close();
}

export class Watchdog {
  readonly #parts: WatchdogParts;
  readonly #beatMs: number;
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(parts: WatchdogParts) {
    this.#parts = parts;
    this.#beatMs = Math.min((parts.wish.watchdogMs ?? Number.POSITIVE_INFINITY) / beatsPerPatience, beatLongestMs);
  }

  /** The doors are open: whoever waits for us may go on. */
  async ready(): Promise<void> {
    await this.#tell(['READY=1']);
    await this.#beat();
  }

  /** Tells that the end has begun; from here on nothing is proven any more. */
  async stopping(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#tell(['STOPPING=1', 'STATUS=ending']);
  }

  async #beat(): Promise<void> {
    try {
      await within(this.#beatMs, this.#parts.ask());
      const silentMs = this.#parts.holderSilentMs();
      if (silentMs > holderSilentMaxMs) throw new UkeyError('token-failed', 'the holder shows no state');
      if (!this.#isClosed) await this.#tell(['WATCHDOG=1', `STATUS=${this.#parts.line().replaceAll(/\s+/g, ' ')}`]);
    } catch (thrown) {
      if (!this.#isClosed) this.#parts.log.error('no progress can be proven; the watchdog is not fed', { why: whyOf(thrown) });
    }
    if (!this.#isClosed) this.#timer = setTimeout(() => void this.#beat(), this.#beatMs);
  }

  /** Never rejects: a manager that cannot be told anything decides by itself. */
  async #tell(assignments: readonly string[]): Promise<void> {
    const { wish, log, send = (words) => notify(wish.notifySocket, words) } = this.#parts;
    await send(assignments).catch((error: unknown) => log.error('the service manager cannot be told', { why: whyOf(error) }));
  }
}

async function notify(notifySocket: string, assignments: readonly string[]): Promise<void> {
  const env = { NOTIFY_SOCKET: notifySocket, PATH: process.env['PATH'] ?? '/usr/bin:/bin' };
  await run(notifyTool, [...assignments], { env, timeout: sendWaitMs, killSignal: 'SIGKILL' });
}

function within<T>(waitMs: number, answer: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new UkeyError('busy', 'the service does not answer its own question')), waitMs);
  return Promise.race([answer, late.promise]).finally(() => clearTimeout(timer));
}
