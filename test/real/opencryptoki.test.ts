// Shows: OpenCryptoki's software token: RSA only, and one that really locks. In a mount namespace of its own, which takes root.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const modules = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((machine) => `/usr/lib/${machine}/opencryptoki/libopencryptoki.so.0`);
const module = modules.find((path) => existsSync(path)) ?? null;
const mayUnshare = spawnSync('unshare', ['--mount', '--ipc', 'true'], { stdio: 'ignore' }).status === 0;
if (module === null && process.env['CI']) throw new Error('OpenCryptoki is not installed, and CI is set');
const why =
  module === null ? 'it is not installed (apt-get install opencryptoki)' : mayUnshare ? null : 'no namespaces of its own may be made here';
if (why !== null) console.warn(`SKIPPED: OpenCryptoki: ${why}`);

test.runIf(why === null)(
  'a token of OpenCryptoki seals with RSA, wraps, keeps objects, locks, and is unblocked',
  { timeout: 90_000 },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ukeyd-ock-'));
    try {
      const scripts = {
        world: new URL('../support/opencryptoki-world.sh', import.meta.url),
        life: new URL('./opencryptoki-life.ts', import.meta.url),
      };
      const args = ['--mount', '--ipc', 'sh', scripts.world.pathname, folder, process.execPath, scripts.life.pathname, module ?? ''];
      const { stdout } = await promisify(execFile)('unshare', args, { timeout: 80_000 });
      const found = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
      console.log(`opencryptoki: ${JSON.stringify(found)}`);
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
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
