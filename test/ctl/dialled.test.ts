// Shows: a sandbox's start that is given up just when its service has answered leaves no connection behind, which would keep the command from ending.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { dialled } from '#ctl/world/dialled.ts';
import { TendedProcess } from '#ctl/world/tended-process.ts';
import { FakeService } from '#test/support/fake-service.ts';

test.each([0, 1])('given up at look %i behind the connection', async (looks) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-dialled-'));
  const logFile = path.join(folder, 'service.log');
  const args = ['-e', 'setInterval(() => undefined, 1000)'];
  const tended = new TendedProcess({ name: 'the service', args, env: {}, logFile, onStarted: () => undefined, onDied: () => undefined });
  await using service = await FakeService.start({ script: {} });
  let looked = 0;
  const isOver = (): boolean => service.requests.some(({ method }) => method === 'hello') && looked++ >= looks;
  try {
    const ended = dialled({ socket: service.socketPath, process: tended, logFile, isOver });
    await expect(ended).rejects.toMatchObject({ code: 'busy', message: 'the sandbox is being stopped' });
    await expect.poll(() => service.connections).toBe(0);
  } finally {
    await tended.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});
