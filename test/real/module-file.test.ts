// The library that a configuration names with its SHA-256 is loaded, and another file under that name is not.
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { compose } from '#daemon/compose.ts';
import { parseConfig } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import { createSoftHsmWorld, describeSoftHsm } from '#test/support/softhsm.ts';

describeSoftHsm('a module with its SHA-256', (softHsm) => {
  test.each(['its own', 'another'])('%s', async (which) => {
    const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-module-'));
    const world = createSoftHsmWorld(softHsm); // before the process that inherits its environment
    const own = createHash('sha256').update(readFileSync(softHsm)).digest('hex');
    const sha256 = which === 'its own' ? own : own.replace(/^./, (digit) => (digit === '0' ? '1' : '0'));
    const lines = ['state = "s"', 'socket = "r/u.sock"', 'admin_socket = "r/a.sock"', '[token]', 'flash = "f.img"'];
    const config = parseConfig([...lines, `module = "${softHsm}"`, `module_sha256 = "${sha256}"`].join('\n'), directory);
    const running = await compose(config, silentLog);
    try {
      const expected = which === 'its own' ? 'blank' : 'absent';
      await expect.poll(() => running.custody.state.kind).toBe(expected);
    } finally {
      await running.close();
      world.remove();
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
