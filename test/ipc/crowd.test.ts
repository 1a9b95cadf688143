import { describe, expect, it } from 'vitest';
import type { Client } from '#ipc-schema/client.ts';
import { encodeRequest } from '#ipc-schema/envelope.ts';
import { callTest, codeOf, openWorld, RawPeer, type World } from '#test/ipc/world.ts';

async function p99Ms(client: Client, count: number): Promise<number> {
  const times: number[] = [];
  for (let one = 0; one < count; one++) {
    const startMs = performance.now();
    await callTest(client, 'test.echo', { value: one });
    times.push(performance.now() - startMs);
  }
  times.sort((a, b) => a - b);
  return times[Math.floor(times.length * 0.99)] ?? 0;
}

async function crowd(world: World, count: number): Promise<RawPeer[]> {
  const before = world.service.connectionCount;
  const peers = Array.from({ length: count }, () => new RawPeer(world.till));
  while (world.service.connectionCount < before + count) await new Promise((resolve) => setTimeout(resolve, 5));
  return peers;
}

describe('idle connections', () => {
  it('do not keep a till from working: 300 that never say who they are', async () => {
    await using world = await openWorld();
    const client = await world.client();
    const alone = await p99Ms(client, 300);
    const idle = await crowd(world, 300);
    const among = await p99Ms(client, 300);
    console.log(`idle=300 p99_ms alone=${alone.toFixed(2)} among=${among.toFixed(2)}`);
    expect(idle.some((peer) => peer.closed)).toBe(false);
    expect(await callTest(await world.client(), 'test.echo')).toEqual({ value: null });
    for (const peer of idle) peer.end();
  });

  it('make room when the house is full: the oldest stranger goes, told why, never a till that is known', async () => {
    await using world = await openWorld({ limits: { tillConnections: 20 } });
    const client = await world.client();
    const idle = await crowd(world, 19);
    const newcomer = await world.client({ terminal: 'till-2' });
    expect(await callTest(newcomer, 'test.echo')).toEqual({ value: null });
    expect(await callTest(client, 'test.echo')).toEqual({ value: null });
    const [oldest] = idle;
    await oldest?.until(() => oldest.closed);
    expect(oldest?.messages.map(codeOf)).toEqual(['busy']);
    expect(idle.slice(1).some((peer) => peer.closed)).toBe(false);
    for (const peer of idle) peer.end();
  });

  it('are refused with a word when everybody inside is known', async () => {
    await using world = await openWorld({ limits: { tillConnections: 2 } });
    const clients = [await world.client(), await world.client()];
    const late = new RawPeer(world.till);
    expect(codeOf(await late.next())).toBe('busy');
    await late.until(() => late.closed);
    for (const client of clients) expect(await callTest(client, 'test.echo')).toEqual({ value: null });
  });

  it('are closed when they do not authenticate in time; a known till may be silent', async () => {
    await using world = await openWorld({ limits: { strangerWaitMs: 1_000, sweepMs: 10, frameWaitMs: 60 } });
    const client = await world.client();
    const stranger = new RawPeer(world.till);
    const half = new RawPeer(world.till);
    await half.authenticate();
    half.send('{"type":');
    expect(codeOf(await stranger.next())).toBe('unauthenticated');
    await stranger.until(() => stranger.closed);
    expect(codeOf(await half.next())).toBe('invalid-request');
    await half.until(() => half.closed);
    expect(await callTest(client, 'test.echo')).toEqual({ value: null });
  });
});

describe('a client that never reads', () => {
  it('is held back, then closed, and costs a bounded amount of memory', async () => {
    await using world = await openWorld({ limits: { outputWaitMs: 150, sweepMs: 20 } });
    const client = await world.client();
    const peer = new RawPeer(world.till);
    await peer.authenticate();
    peer.socket.pause();
    globalThis.gc?.();
    const before = process.memoryUsage.rss();
    for (let id = 0; id < 5_000; id++) peer.request(id, 'test.wait', { waitMs: 0, bytes: 20_000 });
    expect(await callTest(client, 'test.echo', { value: 1 })).toEqual({ value: 1 });
    // The reader’s own end is noticed by the service’s: at its close a paused socket says nothing.
    await client.subscribe();
    while (world.service.connectionCount > 1) await callTest(client, 'test.echo');
    expect(process.memoryUsage.rss() - before).toBeLessThan(96 << 20);
    expect(world.reports.some((one) => one.what === 'a connection was closed')).toBe(true);
    peer.end();
  });

  it('is closed at once when more waits for it than may wait', async () => {
    await using world = await openWorld({ limits: { outputMaxBytes: 500_000 } });
    const peer = new RawPeer(world.till);
    await peer.authenticate();
    peer.socket.pause();
    for (let id = 0; id < 100; id++) peer.request(id, 'test.wait', { waitMs: 20, bytes: 20_000 });
    while (world.service.connectionCount > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    peer.end();
  });
});

describe('a flood', () => {
  it('from one client does not starve another', async () => {
    await using world = await openWorld();
    const till = await world.client();
    const alone = await p99Ms(till, 300);
    const flood = new RawPeer(world.till);
    await flood.authenticate('greedy');
    const burst = Array.from(
      { length: 20_000 },
      (_, id) => `{"type":"ukey","data":{"jsonrpc":"2.0","id":${id},"method":"test.echo","params":{"value":"${'x'.repeat(100)}"}}}\f`,
    ).join('');
    flood.send(burst);
    let answeredDuring = 0;
    while (flood.messages.length < 20_000) {
      await callTest(till, 'test.echo', { value: 1 });
      answeredDuring++;
      if (answeredDuring > 20_000) break;
    }
    const among = await p99Ms(till, 50);
    console.log(`flood=20000 answered_meanwhile=${answeredDuring} p99_ms alone=${alone.toFixed(2)} after=${among.toFixed(2)}`);
    expect(flood.messages).toHaveLength(20_000);
    // One turn of the flood is 16 frames: the till had its turn at least once in each 64.
    expect(answeredDuring).toBeGreaterThan(20_000 / 64);
    flood.end();
  });
});

describe('a terminal with many connections', () => {
  it('has its turn with the others, not one for each connection', async () => {
    const connections = 60;
    await using world = await openWorld();
    const till = await world.client();
    const flood = Array.from({ length: connections }, () => new RawPeer(world.till));
    for (const peer of flood) await peer.authenticate('greedy');
    // Refused by its schema, after it was read whole.
    const heavy = `{"type":"ukey","data":{"jsonrpc":"2.0","id":1,"method":"test.wait","params":{"x":[${Array(60_000).fill('{}').join(',')}]}}}\f`;
    let answered = 0;
    for (const peer of flood) {
      peer.socket.on('data', () => {
        while (peer.messages.length > 0) {
          peer.messages.shift();
          answered += 1;
          peer.send(heavy);
        }
      });
      peer.send(heavy);
    }
    const before: number[] = [];
    for (let at = 0; at < 20; at += 1) {
      const from = answered;
      await callTest(till, 'test.echo', { value: at });
      before.push(answered - from);
    }
    for (const peer of flood) peer.end();
    console.log(`connections=${connections} heavy_requests_between_two_answers=${before.join(',')}`);
    expect(answered).toBeGreaterThan(connections);
    expect(before.sort((a, b) => a - b)[10]).toBeLessThan(connections / 3);
  });
});

describe('large requests', () => {
  const pad = ' '.repeat(60_000);
  const large = (id: number, waitMs: number): string => `${pad}${encodeRequest(id, 'test.wait', { waitMs })}`;

  it('of one terminal are busy beyond so many bytes, over all its connections; another terminal does not notice', async () => {
    await using world = await openWorld({ limits: { requestBytesPerTerminal: 100_000 } });
    const peers = [new RawPeer(world.till), new RawPeer(world.till), new RawPeer(world.till)];
    for (const peer of peers) await peer.authenticate('greedy');
    for (const [id, peer] of peers.entries()) peer.send(large(id, 300));
    const codes = await Promise.all(peers.map(async (peer) => codeOf(await peer.next())));
    expect(codes.sort()).toEqual(['answer', 'answer', 'busy']);
    expect(await callTest(await world.client(), 'test.echo', { value: 1 })).toEqual({ value: 1 });
    // What was answered makes room.
    peers[2]?.send(large(9, 0));
    const [, , last] = peers;
    expect(last === undefined ? '' : codeOf(await last.next())).toBe('answer');
    for (const peer of peers) peer.end();
  });
});

describe('the log', () => {
  it('is not filled by strangers: after a few closed connections it only counts them', async () => {
    await using world = await openWorld({ limits: { sweepMs: 30 } });
    const peers = Array.from({ length: 60 }, () => new RawPeer(world.till));
    for (const peer of peers) peer.send('null\f');
    for (const peer of peers) await peer.until(() => peer.closed);
    const counted = () => world.reports.filter((one) => one.what === 'more connections were closed');
    await peers[0]?.until(() => counted().length > 0);
    expect(world.reports.length).toBeLessThan(40);
  });
});

describe('a reader of many pages', () => {
  const pageBytes = 256 * 1024;
  /** Together less than may wait for one connection, so that nothing else holds it back. */
  const asked = 20;
  /** What a system keeps for a socket, a page that waits, and some to spare. */
  const begunMax = 6;

  it('that does not read them has a few made, not all; once it reads it gets every one, in order', async () => {
    await using world = await openWorld();
    const peer = new RawPeer(world.till);
    await peer.authenticate();
    peer.socket.pause();
    for (let id = 1; id <= asked; id += 1) {
      peer.request(id, 'test.wait', { waitMs: 0, bytes: pageBytes });
      // One after the other, so that no limit on open requests stands in for this one.
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const begun = world.answered();
    expect(begun).toBeGreaterThan(0);
    expect(begun).toBeLessThanOrEqual(begunMax);
    peer.socket.resume();
    await peer.until(() => peer.messages.length >= asked || peer.closed, 10_000);
    expect(peer.messages.map((message) => (message.kind === 'answer' ? message.id : null))).toEqual(
      Array.from({ length: asked }, (_, at) => at + 1),
    );
    peer.end();
  });
});
