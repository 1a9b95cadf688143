import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { connectNodeIpc, openEcho } from '#test/ipc/node-ipc-peer.ts';
import { openWorld, RawPeer } from '#test/ipc/world.ts';

/** As large as a typical invoice of ten lines. */
const value = {
  key: 'till-1/2026-01-01/000123',
  buyer: { name: 'Jörg Müller', taxId: 'DE123456789' },
  lines: Array.from({ length: 10 }, (_, at) => ({
    description: `WHITE HANGING HEART T-LIGHT HOLDER ${at}`,
    quantity: '6',
    unitPrice: '2.55',
    taxCode: 'standard',
    sku: `85123A${at}`,
  })),
};

describe('a till written with node-ipc itself', () => {
  it('talks to the service: the frames are that package’s own', async () => {
    await using world = await openWorld();
    const peer = await connectNodeIpc(world.admin);
    peer.send({ jsonrpc: '2.0', id: 1, method: 'test.echo', params: { value } });
    expect(await peer.next()).toEqual({ jsonrpc: '2.0', id: 1, result: { value } });
    peer.send({ jsonrpc: '2.0', id: 2, method: 'test.nothing' });
    expect(await peer.next()).toMatchObject({ id: 2, error: { data: { code: 'unknown-method' } } });
    peer.close();
  });
});

describe('the round trip', () => {
  // The floor of the benchmark: printed here, judged there. Both servers in this process, the load in another.
  it('one at a time, beside a bare node-ipc echo in the same run', async () => {
    await using world = await openWorld();
    const echoPath = join(world.dir, 'echo.sock');
    const echo = await openEcho(echoPath);
    const load = fork(new URL('./round-trip-load.ts', import.meta.url), [], { execArgv: [] });
    load.send({ echoPath, servicePath: world.admin, value });
    const [line] = (await once(load, 'message')) as [string];
    console.log(line);
    expect(line).toContain('ratio=');
    await once(load, 'exit');
    echo.close();
    const peer = new RawPeer(world.admin);
    peer.request(1, 'test.echo', { value });
    expect(await peer.next()).toMatchObject({ kind: 'answer', result: { value } });
    peer.end();
  }, 20_000);
});
