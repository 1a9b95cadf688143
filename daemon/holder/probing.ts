// Owns: probing a vendor's module in a process of its own, which it may hang or crash.
// Invariants: ends at the deadline, whatever the module does; then the error says in which call the module was.
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { ModuleReport, ProbeRequest } from '#token/probe.ts';
import { decodeError, type WireError } from './messages.ts';
import { sendPins } from './pin-pipe.ts';
import { spawnHolder } from './spawn.ts';

export type { ModuleReport, TokenReport } from '#token/probe.ts';

export interface ProbeOrder extends ProbeRequest {
  /** Absolute. */
  readonly modulePath: string;
  /** What the module is told in C_Initialize; null: nothing. */
  readonly moduleParameters: string | null;
}

export const pinsOf = ({ pin }: ProbeOrder): readonly Uint8Array[] => (pin === null ? [] : [pin]);

export type FromProbe =
  | { readonly kind: 'stage'; readonly what: string }
  | { readonly kind: 'report'; readonly report: ModuleReport }
  | { readonly kind: 'refused'; readonly error: WireError };

const entry = new URL(import.meta.url.endsWith('.ts') ? './probing-child.ts' : './probing-child.js', import.meta.url);

/** Throws token-failed when the module hangs or crashes, else what it refused with. The PIN's bytes are overwritten. */
export async function probeInChild(order: ProbeOrder, deadlineMs: number): Promise<ModuleReport> {
  const { promise, resolve, reject } = Promise.withResolvers<ModuleReport>();
  const child = spawnHolder(entry);
  let stage = 'starting';
  const broke = (how: string): void => reject(new UkeyError('token-failed', `the module ${how} in ${stage}`, { action: crashAction }));
  const timer = setTimeout(() => broke(`gives no answer within ${deadlineMs} ms`), deadlineMs);
  // What a driver prints is no part of the report.
  for (const stream of [child.stdout, child.stderr]) stream?.resume();
  child.on('error', (cause) => reject(new UkeyError('internal', 'the probing process does not start', { cause })));
  child.on('exit', (code, signal) => broke(`ended the process (${signal ?? code})`));
  // Both ends are this program: the shape is believed.
  child.on('message', (message: FromProbe) => {
    switch (message.kind) {
      case 'stage':
        stage = message.what;
        break;
      case 'report':
        resolve(message.report);
        break;
      case 'refused':
        reject(decodeError(message.error));
        break;
      default:
        unreachable(message);
    }
  });
  sendPins(child, pinsOf(order));
  child.send(order, () => undefined);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    child.kill('SIGKILL');
  }
}

const crashAction = "Ask the token's vendor for another version of the module; this one would stop the service again and again.";
