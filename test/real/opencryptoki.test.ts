// Shows: OpenCryptoki's software token: RSA only, and one that really locks; alone, and under a whole service. In a mount namespace of its own, which takes root.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { dayOf } from '#test/support/service-life.ts';

const modules = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((machine) => `/usr/lib/${machine}/opencryptoki/libopencryptoki.so.0`);
const module = modules.find((path) => existsSync(path)) ?? null;
const mayUnshare = spawnSync('unshare', ['--mount', '--ipc', 'true'], { stdio: 'ignore' }).status === 0;
if (module === null && process.env['CI']) throw new Error('OpenCryptoki is not installed, and CI is set');
const why =
  module === null ? 'it is not installed (apt-get install opencryptoki)' : mayUnshare ? null : 'no namespaces of its own may be made here';
if (why !== null) console.warn(`SKIPPED: OpenCryptoki: ${why}`);

/** The last line that the script prints in a world of its own. */
async function inItsWorld(script: string): Promise<Record<string, unknown>> {
  const folder = mkdtempSync(join(tmpdir(), 'ukeyd-ock-'));
  try {
    const world = new URL('../support/opencryptoki-world.sh', import.meta.url).pathname;
    const life = new URL(script, import.meta.url).pathname;
    const args = ['--mount', '--ipc', 'sh', world, folder, process.execPath, life, module ?? ''];
    const { stdout } = await promisify(execFile)('unshare', args, { timeout: 80_000 });
    const found = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
    console.log(`opencryptoki: ${JSON.stringify(found)}`);
    return found;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

describe.runIf(why === null)('OpenCryptoki', { timeout: 90_000 }, () => {
  test('a token of it seals with RSA, wraps, keeps objects, locks, and is unblocked', async () => {
    const found = await inItsWorld('./opencryptoki-life.ts');
    expect(found).toMatchObject({
      ...{ provision: 'done', 'provision again': 'token-failed', login: 'done', algorithm: 'RS256', signs: true },
      ...{ object: true, change: 'done', 'old PIN': 'pin-incorrect', 'after a wrong PIN': 'low', 'new PIN': 'done' },
      ...{ 'object anew': 'two', 'signs anew': true, locked: 'locked', 'right PIN of a locked token': 'pin-locked' },
      ...{ unblock: 'done', unblocked: 'ok', 'login after that': 'done', 'signs after that': true },
    });
    expect(found['aes-kw']).toBe('token-failed'); // no AES key wrap, and no EC
    expect(found['ecdh-p256-hkdf']).toBe('token-failed');
    expect(found['choice']).toBe('rsa-oaep');
    for (const method of ['rsa-oaep', 'rsa-pkcs1', 'data-object-kek', 'rsa-signature-hkdf']) expect(found[method], method).toBe(true);
  });

  test('a service over a token of it carries a day with RSA alone', async () => {
    expect(await inItsWorld('./opencryptoki-day.ts')).toEqual(dayOf('RS256'));
  });
});
