// Owns: how a replay sees its service: connections of the enrolled till, and a watcher that learns when documents are acknowledged.
// Invariants: everything goes through the local socket, as a till of any maker would do it; nothing is read from files of the service
// but the till's own secret.
import { readTerminalSecret } from '#ctl/prompt.ts';
import type { Screen } from '#ctl/screen.ts';
import type { WorldFacts } from '#ctl/world/world.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';

const connectWaitMs = 10_000;
const pollMs = 100;
/** Nothing was acknowledged for so long although the line is up. */
const stuckMs = 90_000;

type TillFacts = Pick<WorldFacts, 'socket' | 'terminal' | 'secretFile'>;

export async function openTill(facts: TillFacts, screen: Screen, onEvent?: (notice: EventNotice) => void): Promise<Client> {
  const secret = readTerminalSecret(facts.secretFile, screen);
  const { terminal, socket: socketPath } = facts;
  return await connect({ socketPath, client: 'ukeyctl-replay/1', terminal, secret, onEvent, waitMs: connectWaitMs });
}

/** When each document of this run was acknowledged, on the monotonic clock. */
export class AckWatch {
  readonly #issued: string[] = [];
  readonly #ackedAtMs = new Map<string, number>();
  #till: Client | null = null;

  static async open(facts: TillFacts, screen: Screen): Promise<AckWatch> {
    const watch = new AckWatch();
    const till = await openTill(facts, screen, (notice) => watch.#see(notice));
    watch.#till = till;
    await till.subscribe(['issued', 'acknowledged']);
    return watch;
  }

  /** Of this run, as far as events have told. */
  get waiting(): number {
    return this.#issued.length - this.#ackedAtMs.size;
  }

  ackedAtMs(number: string): number | null {
    return this.#ackedAtMs.get(number) ?? null;
  }

  close(): void {
    this.#till?.close();
  }

  #see({ event, ...facts }: EventNotice): void {
    if (event === 'issued' && typeof facts['number'] === 'string') this.#issued.push(facts['number']);
    if (event === 'acknowledged') void this.refresh();
  }

  /** Events of one connection and its answers keep their order: what was issued before the answer has been told before it. */
  async refresh(): Promise<void> {
    const nowMs = performance.now();
    const pending = await this.#pending();
    if (pending === null) return;
    // Acknowledged in their order: what waits is the newest, and what an earlier run left went first.
    const acknowledged = this.#issued.length - pending;
    for (const number of this.#issued.slice(0, Math.max(0, acknowledged))) {
      if (!this.#ackedAtMs.has(number)) this.#ackedAtMs.set(number, nowMs);
    }
  }

  async #pending(): Promise<number | null> {
    try {
      return (await this.#till?.call('backlog.status', {}))?.pending ?? null;
    } catch {
      // The service is being started again; the next event or look tells.
      return null;
    }
  }
}

/** Waits until nothing waits any more; `onPending` after each look. Throws offline when nothing moves for long. */
export async function drained(till: Client, onPending: (pending: number) => void): Promise<void> {
  let least = Number.POSITIVE_INFINITY;
  let movedAtMs = performance.now();
  for (;;) {
    const pending = await till.call('backlog.status', {}).then(
      (status) => status.pending,
      (thrown: unknown) => {
        const error = asUkeyError(thrown);
        if (error.retry === 'never') throw error;
        return least;
      },
    );
    onPending(pending);
    if (pending === 0) return;
    if (pending < least) {
      least = pending;
      movedAtMs = performance.now();
    }
    if (performance.now() - movedAtMs > stuckMs) throw new UkeyError('offline', `${pending} documents are not acknowledged`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}
