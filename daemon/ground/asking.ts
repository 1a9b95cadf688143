// Owns: which request of a caller is being worked on, carried along with the work: every line of the log that it causes bears its name, and
// where work waits in a line, those who ask take turns.
// Invariants: the name is `connection:id`, where id is the caller's JSON-RPC id if that is a number or a short plain word, else `#n`, the request's place
// on its connection: a log does not repeat whatever a caller sends. Work that is done for several (a batch, an upload) or for nobody goes `apart`.
import { AsyncLocalStorage } from 'node:async_hooks';

export interface Asking {
  /** Counts the connections since the start. */
  readonly connection: number;
  readonly id: string | number;
  /** Counts the requests of the connection. */
  readonly place: number;
  /** Who asks: all connections of one terminal are one. */
  readonly group: string;
}

const asking = new AsyncLocalStorage<Asking>();
const plainId = /^[A-Za-z0-9._-]{1,64}$/;

export function during<T>(request: Asking, act: () => T): T {
  return asking.run(request, act);
}

/** For nobody in particular. */
export function apart<T>(act: () => T): T {
  return asking.exit(act);
}

/** Who asked for what is being worked on; the service itself where nobody did. */
export const askingGroup = (): string => asking.getStore()?.group ?? 'the service';

/** The name of the request that is being worked on, or null. */
export function askingName(): string | null {
  const request = asking.getStore();
  if (request === undefined) return null;
  const { connection, id, place } = request;
  const isPlain = typeof id === 'number' || plainId.test(id);
  return `${connection}:${isPlain ? id : `#${place}`}`;
}
