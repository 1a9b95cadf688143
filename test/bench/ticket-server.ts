// Owns: the harness's end of the ticket server's process.
// Invariants: one question at a time.
import type { ChildProcess } from 'node:child_process';
import type { EnrolmentTicket } from '#ipc-schema/upstream.ts';
import type { GrantOptions } from '#server/grant.ts';
import { ended, startPart } from './process.ts';
import type { AskedOfServer } from './server-process.ts';

export class TicketServer {
  readonly #process: ChildProcess;
  readonly port: number;

  private constructor(child: ChildProcess, port: number) {
    this.#process = child;
    this.port = port;
  }

  static async start(options: Extract<AskedOfServer, { kind: 'start' }>['options']): Promise<TicketServer> {
    const child = startPart('./server-process.ts');
    return new TicketServer(child, (await ask(child, { kind: 'start', options })) as number);
  }

  async createTicket(grant: GrantOptions): Promise<EnrolmentTicket> {
    return (await ask(this.#process, { kind: 'ticket', grant })) as EnrolmentTicket;
  }

  async close(): Promise<void> {
    await ask(this.#process, { kind: 'close' });
    this.#process.disconnect();
    await ended(this.#process);
  }
}

/** Rejects when it failed, or when the process ends without an answer. */
async function ask(child: ChildProcess, asked: AskedOfServer): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const hear = (told: { readonly answer?: unknown; readonly failed?: string }): void =>
    told.failed === undefined ? resolve(told.answer) : reject(new Error(`the ticket server failed: ${told.failed}`));
  const end = (): void => reject(new Error('the ticket server has ended'));
  child.once('message', hear);
  child.once('exit', end);
  child.send(asked);
  try {
    return await promise;
  } finally {
    child.off('message', hear);
    child.off('exit', end);
  }
}
