// How the holder process is started: small from its first moment, as the front.
import { once } from 'node:events';
import { afterEach, expect, test, vi } from 'vitest';
import { holderEnvironment, holderFlags } from '#ground/runtime.ts';
import { spawnHolder } from '#holder/spawn.ts';
import { readsAtOnce } from '#store/device-file.ts';

async function told(): Promise<unknown> {
  const child = spawnHolder(new URL('./told-child.ts', import.meta.url));
  try {
    return (await once(child, 'message'))[0];
  } finally {
    child.kill('SIGKILL');
  }
}

afterEach(() => vi.unstubAllEnvs());

test('with the flags and the environment that keep it small', async () => {
  vi.stubEnv('MALLOC_ARENA_MAX', undefined);
  vi.stubEnv('UV_THREADPOOL_SIZE', undefined);
  expect(await told()).toEqual({
    flags: holderFlags,
    arenas: holderEnvironment['MALLOC_ARENA_MAX'],
    threads: String(2 * (readsAtOnce + 1)),
  });
});

test("with the machine's own environment where it has one", async () => {
  vi.stubEnv('MALLOC_ARENA_MAX', '7');
  vi.stubEnv('UV_THREADPOOL_SIZE', '3');
  expect(await told()).toEqual({ flags: holderFlags, arenas: '7', threads: '3' });
});
