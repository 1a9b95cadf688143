// Owns: the ticket server as a process of its own, for the benchmarks: the product's, started and closed by messages.
// Invariants: it gives way to the service, which in a shop shares its cores with no server.
import os from 'node:os';
import process from 'node:process';
import type { GrantOptions } from '#server/grant.ts';
import { type RunningServer, type ServerOptions, startServer } from '#server/serve.ts';

export type AskedOfServer =
  | { readonly kind: 'start'; readonly options: Pick<ServerOptions, 'directory' | 'databaseUrl'> }
  | { readonly kind: 'ticket'; readonly grant: GrantOptions }
  | { readonly kind: 'close' };

/** A third of what the service's threads get where there is not enough for all. */
const priority = 5;

os.setPriority(priority);

let server: RunningServer | null = null;

/** What `start` answers is the port; what `ticket` answers, the ticket. */
async function perform(asked: AskedOfServer): Promise<unknown> {
  if (asked.kind === 'start') {
    server = await startServer(asked.options);
    return server.port;
  }
  if (server === null) throw new Error('it has not been started');
  if (asked.kind === 'ticket') return await server.createTicket(asked.grant);
  return await server.close();
}

process.on('disconnect', () => process.exit(0));
process.on('message', (asked: AskedOfServer) => {
  perform(asked).then(
    (answer) => process.send?.({ answer }),
    (thrown: unknown) => process.send?.({ failed: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown) }),
  );
});
