import { describe, expect, it } from 'vitest';
import { serve } from '#ipc/serve.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import { callTest, codeOf, handlers, methods, openWorld, RawPeer, refusalOf } from '#test/ipc/world.ts';

const at = '2026-01-01T00:00:00Z';

describe('a request', () => {
  it('is answered by its handler, many at once and in any order', async () => {
    await using world = await openWorld();
    const client = await world.client();
    const slow = callTest(client, 'test.wait', { waitMs: 60, bytes: 3 });
    const values = await Promise.all(Array.from({ length: 100 }, (_, value) => callTest(client, 'test.echo', { value })));
    expect(values).toEqual(Array.from({ length: 100 }, (_, value) => ({ value })));
    expect(await slow).toBe('xxx');
  });

  it('is refused with the path of the bad field', async () => {
    await using world = await openWorld();
    const peer = new RawPeer(world.admin);
    peer.request(1, 'test.wait', { waitMs: 'soon' });
    expect(await peer.next()).toMatchObject({ kind: 'refusal', id: 1, error: { code: 'invalid-request', field: 'waitMs' } });
    peer.end();
  });

  it.each([
    ['ukey', 'store-full'],
    ['foreign', 'internal'],
    ['nothing', 'internal'],
    ['unwritable', 'internal'],
  ])('whose handler fails (%s) is answered %s, and the next one is served', async (how, code) => {
    await using world = await openWorld();
    const peer = new RawPeer(world.admin);
    peer.request(1, 'test.fail', { how });
    const answer = await peer.next();
    expect(codeOf(answer)).toBe(code);
    if (code === 'store-full') expect(answer).toMatchObject({ error: { field: 'a.b', retryAfterMs: 7 } });
    peer.request(2, 'test.echo', { value: 1 });
    expect(await peer.next()).toMatchObject({ kind: 'answer', id: 2 });
    // What a foreign exception says may be the caller's data: it goes neither out nor into the log; its place does.
    expect(JSON.stringify([answer, world.reports])).not.toContain('123456');
    if (how === 'foreign') expect(JSON.stringify(world.reports)).toContain('world.ts');
    peer.end();
  });

  it('whose answer is not what its method promises is a fault when that is checked', async () => {
    await using checked = await openWorld({ checkResults: true });
    const client = await checked.client();
    expect(await refusalOf(callTest(client, 'test.number'))).toBe('internal');
    expect(await callTest(client, 'test.echo', { value: 1 })).toEqual({ value: 1 });
  });

  it('whose answer would be too large is told so', async () => {
    await using world = await openWorld({ limits: { answerBytes: 1_000 } });
    const client = await world.client();
    expect(await refusalOf(callTest(client, 'test.wait', { waitMs: 0, bytes: 1_000 }))).toBe('too-large');
    expect(await callTest(client, 'test.wait', { waitMs: 0, bytes: 10 })).toHaveLength(10);
  });

  it('cannot be served by a table with a hole', async () => {
    await using world = await openWorld();
    const { 'test.echo': _, ...rest } = handlers;
    const options = {
      methods,
      handlers: rest as typeof handlers,
      tillSocketPath: `${world.till}2`,
      adminSocketPath: `${world.admin}2`,
      findTerminal: () => null,
      standing: () => 'locked' as const,
    };
    expect(
      await refusalOf(
        serve({
          ...options,
          serverName: 'x',
          clock: { wallMs: () => 0, monotonicMs: () => 0, elapsedMs: () => 0 },
          randomBytes: (length) => new Uint8Array(length),
          report: () => undefined,
        }),
      ),
    ).toBe('internal');
  });
});

describe('the limits of a caller', () => {
  it('hold back a connection that asks for too much at once, and lose nothing', async () => {
    await using world = await openWorld({ limits: { requestsPerConnection: 4 } });
    const client = await world.client();
    const startMs = performance.now();
    await Promise.all(Array.from({ length: 12 }, () => callTest(client, 'test.wait', { waitMs: 40 })));
    expect(performance.now() - startMs).toBeGreaterThan(3 * 40 - 10);
  });

  it('answer busy to a terminal with too many open requests, not to another terminal', async () => {
    await using world = await openWorld({ limits: { requestsPerTerminal: 5 } });
    const greedy = [await world.client({ terminal: 'greedy' }), await world.client({ terminal: 'greedy' })];
    const asked = Promise.allSettled(
      greedy.flatMap((client) => Array.from({ length: 5 }, () => callTest(client, 'test.wait', { waitMs: 100 }))),
    );
    const other = await world.client();
    expect(await callTest(other, 'test.echo', { value: 1 })).toEqual({ value: 1 });
    const ended = await asked;
    expect(ended.filter((one) => one.status === 'fulfilled')).toHaveLength(5);
    for (const one of ended)
      if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'busy', retryAfterMs: expect.any(Number) });
    expect(await callTest(greedy[0] ?? other, 'test.echo', { value: 2 })).toEqual({ value: 2 });
  });

  it('answer busy when all together ask for too much', async () => {
    await using world = await openWorld({ limits: { requestsInAll: 3 } });
    const client = await world.client();
    const ended = await Promise.allSettled(Array.from({ length: 4 }, () => callTest(client, 'test.wait', { waitMs: 50 })));
    expect(ended.map((one) => one.status).sort()).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected']);
  });

  it('end a terminal’s connections beyond its share', async () => {
    await using world = await openWorld({ limits: { connectionsPerTerminal: 2 } });
    await world.client({ terminal: 'greedy' });
    await world.client({ terminal: 'greedy' });
    expect(await refusalOf(world.client({ terminal: 'greedy' }))).toBe('busy');
    expect(await callTest(await world.client(), 'test.echo')).toEqual({ value: null });
  });
});

describe('events', () => {
  it('reach those who subscribed, and only what they subscribed to', async () => {
    await using world = await openWorld();
    const seen: Record<string, EventNotice[]> = { all: [], some: [], none: [] };
    const listen = (name: string) => world.client({ onEvent: (notice) => void seen[name]?.push(notice) });
    const [all, some, none] = [await listen('all'), await listen('some'), await listen('none')];
    expect(await all.subscribe()).toContain('issued');
    expect(await some.subscribe(['link'])).toEqual(['link']);
    world.service.publish({ event: 'issued', at, number: 'A1' });
    world.service.publish({ event: 'link', at });
    await Promise.all([all, some, none].map((client) => callTest(client, 'test.echo')));
    expect(seen).toEqual({
      all: [
        { event: 'issued', at, number: 'A1' },
        { event: 'link', at },
      ],
      some: [{ event: 'link', at }],
      none: [],
    });
  });

  it('are counted, not kept, for a subscriber that does not read; the next that reaches it says how many were lost', async () => {
    await using world = await openWorld({ limits: { outputHighBytes: 64 * 1024 } });
    const peer = new RawPeer(world.till);
    await peer.authenticate();
    peer.request(1, 'events.subscribe');
    await peer.next();
    peer.socket.pause();
    const before = process.memoryUsage.rss();
    for (let round = 0; round < 200; round++) {
      for (let one = 0; one < 100; one++) world.service.publish({ event: 'issued', at, text: 'x'.repeat(1_000) });
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
    peer.socket.resume();
    let last: EventNotice | null = null;
    const received = async (): Promise<void> => {
      world.service.publish({ event: 'issued', at, mark: true });
      await new Promise((resolve) => setTimeout(resolve, 5));
      for (const message of peer.messages) if (message.kind === 'event' && message.notice['lost'] !== undefined) last = message.notice;
    };
    for (let turn = 0; turn < 200 && last === null; turn++) await received();
    expect(last).toMatchObject({ event: 'issued', lost: expect.any(Number) });
    const count = peer.messages.filter((one) => one.kind === 'event').length;
    expect(count).toBeLessThan(20_000);
    peer.end();
  });
});

describe('the end of the service', () => {
  it('answers what has begun, takes nothing new, and closes every connection', async () => {
    await using world = await openWorld();
    const peer = new RawPeer(world.till);
    await peer.authenticate();
    const idle = new RawPeer(world.admin);
    await idle.until(() => world.service.connectionCount === 2);
    peer.request(1, 'test.wait', { waitMs: 80 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    const closed = world.service.close();
    peer.request(2, 'test.echo');
    expect(await peer.next()).toMatchObject({ kind: 'answer', id: 1 });
    await closed;
    await peer.until(() => peer.closed);
    await idle.until(() => idle.closed);
    expect(peer.messages).toEqual([]);
    expect(world.service.connectionCount).toBe(0);
  });

  it('does not wait for ever for a request that does not end', async () => {
    await using world = await openWorld({ limits: { closeWaitMs: 50, lingerMs: 50 } });
    const peer = new RawPeer(world.till);
    await peer.authenticate();
    peer.request(1, 'test.wait', { waitMs: 400 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    const startMs = performance.now();
    await world.service.close();
    expect(performance.now() - startMs).toBeLessThan(300);
    await peer.until(() => peer.closed);
  });
});
