// Owns: the line of a sandbox: a TCP relay on the loopback between the service and its ticket server, which can be cut.
// Invariants: while cut nothing listens and every connection that was open is reset, as with a pulled cable behind a router;
// bytes are passed on untouched (TLS ends at the two ends); the port stays the same, because the charter names it.
// Must not: know what travels.
import { connect, createServer, type Server, type Socket } from 'node:net';
import { UkeyError } from '#ipc-schema/errors.ts';

export const loopback = '127.0.0.1';
const maxConnections = 64;

export interface Line {
  readonly port: number;
  isUp(): boolean;
  /** Where the far end is from now on. */
  lead(targetPort: number): void;
  cut(): Promise<void>;
  restore(): Promise<void>;
  close(): Promise<void>;
}

/** Listens at once. Throws busy when the port is taken. */
export async function openLine(port: number): Promise<Line> {
  const ends = new Set<Socket>();
  let target: number | null = null;
  let server: Server | null = null;
  const accept = (near: Socket): void => {
    if (target === null) {
      near.resetAndDestroy();
      return;
    }
    const far = connect(target, loopback);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      ends.add(from);
      from.setNoDelay(true);
      // An end that fails or closes takes the other with it; that is all a relay can say.
      from.on('error', () => to.destroy());
      from.on('close', () => {
        ends.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  };
  const restore = async (): Promise<void> => {
    server ??= await listen(port, accept);
  };
  const cut = async (): Promise<void> => {
    const was = server;
    server = null;
    const closed = was === null ? Promise.resolve() : new Promise<void>((resolve) => was.close(() => resolve()));
    for (const end of ends) end.resetAndDestroy();
    await closed;
  };
  await restore();
  return {
    port,
    isUp: () => server !== null,
    lead(targetPort) {
      target = targetPort;
    },
    cut,
    restore,
    close: cut,
  };
}

function listen(port: number, accept: (near: Socket) => void): Promise<Server> {
  const server = createServer(accept);
  server.maxConnections = maxConnections;
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      reject(
        new UkeyError('busy', `port ${port} of the sandbox's line is taken`, {
          action:
            'The charter on the token names this port, so it cannot be another: end the program that listens there (a copy of a sandbox does not run beside its original).',
          cause,
        }),
      );
    });
    server.listen(port, loopback, () => resolve(server));
  });
}

export async function isFree(port: number): Promise<boolean> {
  try {
    await (await openLine(port)).close();
    return true;
  } catch (thrown) {
    if (!(thrown instanceof UkeyError) || thrown.code !== 'busy') throw thrown;
    return false;
  }
}

/** A free port below those that the system gives to outgoing connections, so that it is free again at the next start. */
export async function chooseLinePort(random: () => number): Promise<number> {
  for (let tries = 0; tries < portTries; tries += 1) {
    const port = firstPort + Math.floor(random() * ports);
    if (await isFree(port)) return port;
  }
  throw new UkeyError('busy', `no free port was found in ${portTries} tries`);
}

const firstPort = 20_000;
const ports = 12_000;
const portTries = 50;
