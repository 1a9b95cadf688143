// Owns: who is connected to the ticket server, and who makes room for a newcomer when all places are taken.
// Invariants: at most `max` connections; one with a request that is being worked on is not cut; nobody else keeps a newcomer out.
// All others owe something: a handshake, a request, the rest of one, the reading of an answer. Of the address that has the most of them the one that has
// owed longest goes, so that hundreds of one stranger go before anybody else's. There is no maximum for an address: a shop's tills, or everybody behind a
// proxy, may have one and the same, and while there is room they take nothing from others.
import type { Socket } from 'node:net';

export interface Connection {
  readonly address: string;
  readonly socket: Socket;
  owesSinceMs: number;
  /** Requests that are being worked on. */
  working: number;
  /** Called when it has come to its end. */
  readonly whenGone: Set<() => void>;
}

export class Connections {
  readonly #max: number;
  readonly #all = new Map<string, Connection>();

  constructor(max: number) {
    this.#max = max;
  }

  /** From its first moment: those in the middle of a handshake are the cheapest to have many of. */
  welcome(socket: Socket): void {
    const key = keyOf(socket);
    if (key === null || (this.#all.size >= this.#max && !this.#makeRoom())) {
      socket.destroy();
      return;
    }
    const connection = {
      address: socket.remoteAddress ?? '',
      socket,
      owesSinceMs: performance.now(),
      working: 0,
      whenGone: new Set<() => void>(),
    };
    this.#all.set(key, connection);
    socket.once('close', () => {
      this.#forget(key, connection);
      for (const tell of connection.whenGone) tell();
    });
  }

  /** `socket`: as it was welcomed, or the TLS over it. Null: it is gone. */
  of(socket: Socket): Connection | null {
    return this.#all.get(keyOf(socket) ?? '') ?? null;
  }

  cutAll(): void {
    for (const { socket } of this.#all.values()) socket.destroy();
  }

  #makeRoom(): boolean {
    const owing = [...this.#all].filter(([, { working }]) => working === 0);
    const counts = new Map<string, number>();
    for (const [, { address }] of owing) counts.set(address, (counts.get(address) ?? 0) + 1);
    const most = Math.max(0, ...counts.values());
    let longest: (typeof owing)[number] | null = null;
    for (const one of owing) {
      if (counts.get(one[1].address) === most && (longest === null || one[1].owesSinceMs < longest[1].owesSinceMs)) longest = one;
    }
    if (longest === null) return false;
    this.#forget(...longest); // `close` comes later
    longest[1].socket.destroy();
    return true;
  }

  #forget(key: string, connection: Connection): void {
    if (this.#all.get(key) === connection) this.#all.delete(key);
  }
}

/** Both ends: TLS is a socket of its own, and Node names no way from it to the one below. */
function keyOf({ remoteAddress, remotePort, localAddress }: Socket): string | null {
  return remoteAddress === undefined ? null : `${remoteAddress} ${remotePort} ${localAddress}`;
}
