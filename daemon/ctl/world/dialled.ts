// Owns: the first connection to a sandbox's service, while its process comes up or fails to.
// Invariants: one try at a time, so that a start that is given up leaves neither a connection nor a try behind.
import { type Client, connect } from '#ipc-schema/client.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { givenUp, type Starting, started } from './started.ts';

export interface Dialling extends Pick<Starting, 'process' | 'logFile' | 'isOver'> {
  /** The admin door. */
  readonly socket: string;
}

const stepMs = 50;

/** Throws as `started` does, or what the service refuses with. */
export async function dialled({ socket, ...starting }: Dialling): Promise<Client> {
  let client = null as Client | null;
  const dial = async (): Promise<void> => {
    while (client === null && !starting.isOver()) {
      try {
        client = await connect({ socketPath: socket, client: 'ukeyctl-sandbox' });
      } catch (thrown) {
        const error = asUkeyError(thrown);
        if (error.code !== 'busy') throw error;
        await new Promise((resolve) => setTimeout(resolve, stepMs));
      }
    }
    if (starting.isOver()) client?.close();
  };
  const refused = new Promise<never>((_, reject) => void dial().catch(reject));
  await Promise.race([started({ what: 'the service', ...starting, isReady: () => client !== null }), refused]);
  if (client === null) throw new UkeyError('internal', 'the service does not answer');
  if (starting.isOver()) {
    // Given up since it was made: nobody else knows of it yet, and it would be made again for ever.
    client.close();
    throw givenUp();
  }
  return client;
}
