// Who makes room when all places are taken.
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { type Connection, Connections } from '#server/connections.ts';

class Peer extends EventEmitter {
  readonly localAddress = '192.0.2.1';
  readonly remoteAddress: string;
  readonly remotePort: number;
  isCut = false;

  constructor(remoteAddress: string, remotePort: number) {
    super();
    this.remoteAddress = remoteAddress;
    this.remotePort = remotePort;
  }

  destroy(): void {
    this.isCut = true;
    this.emit('close');
  }
}

/** A place of `max`, to which peers come in this order. */
function placeOf(max: number) {
  const connections = new Connections(max);
  let port = 1_000;
  const come = (address: string): Peer & { readonly connection: Connection } => {
    const peer = new Peer(address, ++port);
    const socket = peer as unknown as Socket;
    connections.welcome(socket);
    return Object.defineProperty(peer, 'connection', { get: () => connections.of(socket) }) as never;
  };
  return { connections, come };
}

const [shop, stranger, other] = ['198.51.100.1', '198.51.100.2', '198.51.100.3'];

test('of one address the one that has owed longest makes room, not the one that came first', () => {
  const { come } = placeOf(3);
  const [first, second, third] = [come(shop), come(shop), come(shop)];
  first.connection.owesSinceMs = performance.now() + 5;
  const newcomer = come(shop);
  expect([first, second, third, newcomer].map((peer) => peer.isCut)).toEqual([false, true, false, false]);
});

test('the address with the most makes room for all others, however long those have waited', () => {
  const { come } = placeOf(5);
  const tills = [come(shop), come(shop)];
  const crowd = [come(stranger), come(stranger), come(stranger)];
  const newcomer = come(other);
  expect(tills.map((peer) => peer.isCut)).toEqual([false, false]);
  expect(crowd.map((peer) => peer.isCut)).toEqual([true, false, false]);
  expect(newcomer.isCut).toBe(false);
});

test('a request that is worked on is not cut: where all are, the newcomer is', () => {
  const { come } = placeOf(2);
  const [first, second] = [come(shop), come(shop)];
  first.connection.working = 1;
  const third = come(stranger);
  expect([first.isCut, second.isCut, third.isCut]).toEqual([false, true, false]);
  third.connection.working = 1;
  expect(come(other).isCut).toBe(true);
  expect([first.isCut, third.isCut]).toEqual([false, false]);
});

test('whoever goes leaves a place, and the same ends may come again', () => {
  const { connections, come } = placeOf(1);
  const first = come(shop);
  first.emit('close');
  const second = come(shop);
  const again = new Peer(shop, second.remotePort);
  connections.welcome(again as unknown as Socket);
  expect(second.isCut).toBe(true);
  second.emit('close'); // late, as sockets do
  expect(connections.of(again as unknown as Socket)).not.toBeNull();
  connections.cutAll();
  expect([first.isCut, again.isCut]).toEqual([false, true]);
});
