// Owns: how a program is started under strace(1) so that a system call of it fails or kills it, and why that may not work here.
// Invariants: counts are per thread, as strace counts; so the program's pool, in which it syncs, is given one thread. Without --seccomp-bpf: strace 6.1 does not count with it.
import { spawnSync } from 'node:child_process';
import { unreachable } from '#ipc-schema/errors.ts';

export type Injection =
  | { readonly kind: 'kill' }
  | { readonly kind: 'error'; readonly error: 'EIO' | 'ENOSPC' }
  /** The answer comes that much later. */
  | { readonly kind: 'slow'; readonly delayMs: number };

/** Why it cannot run here; null when it can. */
export function missingForStrace(): string | null {
  if (process.platform !== 'linux') return 'strace is used on Linux only';
  const tried = spawnSync('strace', ['-f', '-qq', '-o', '/dev/null', '-e', 'trace=fdatasync', 'true']);
  if (tried.error !== undefined) return 'strace is missing (apt-get install strace)';
  return tried.status === 0 ? null : 'strace may not trace here';
}

/** What to put before the program. `when`: strace's own form, as `7` or `7..9`. */
export function underStrace(call: 'fdatasync' | 'pwrite64', when: string, injection: Injection): readonly string[] {
  const inject = `inject=${call}:${wordsOf(injection)}:when=${when}`;
  return ['strace', '-E', 'UV_THREADPOOL_SIZE=1', '-f', '-qq', '-o', '/dev/null', '-e', `trace=${call}`, '-e', inject];
}

function wordsOf(injection: Injection): string {
  switch (injection.kind) {
    case 'kill':
      return 'signal=SIGKILL';
    case 'error':
      return `error=${injection.error}`;
    case 'slow':
      return `delay_exit=${injection.delayMs * 1000}`;
    default:
      return unreachable(injection);
  }
}
