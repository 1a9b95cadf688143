// Owns: the harness's end of the load process: orders in, what was sent out.
import type { ChildProcess } from 'node:child_process';
import type { Asked, Order, Sent, Told } from './messages.ts';
import { startPart } from './process.ts';
import { type Requests, restOf } from './requests.ts';

export class Load {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(sent: Sent | null): void; reject(error: Error): void }>();
  #nextId = 1;

  private constructor() {
    this.#child = startPart('./load-process.ts');
    this.#child.on('message', (told: Told) => {
      const waiter = this.#waiting.get(told.id);
      this.#waiting.delete(told.id);
      if ('failed' in told) waiter?.reject(new Error(`the load failed: ${told.failed}`));
      else waiter?.resolve(told.sent);
    });
    this.#child.on('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the load process has ended'));
    });
  }

  static async start(requests: Requests): Promise<Load> {
    const load = new Load();
    await load.#ask({ kind: 'requests', requests: requests.typical.map(restOf) });
    return load;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async do(order: Extract<Order, { kind: 'open' | 'shut' | 'begin' }>): Promise<void> {
    await this.#ask(order);
  }

  async send(order: Extract<Order, { kind: 'run' | 'end' | 'first' }>): Promise<Sent> {
    const sent = await this.#ask(order);
    if (sent === null) throw new Error('nothing was sent');
    return sent;
  }

  close(): void {
    this.#child.disconnect();
  }

  #ask(order: Order): Promise<Sent | null> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, order } satisfies Asked);
    });
  }
}

/** Every request was done, or the figures of this run mean nothing. */
export function wholly(sent: Sent): Sent {
  const codes = Object.entries(sent.failures);
  if (codes.length > 0) throw new Error(`requests failed: ${codes.map(([code, count]) => `${code} x ${count}`).join(', ')}`);
  return sent;
}
