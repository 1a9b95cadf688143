import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FakeService, type Script } from '#test/support/fake-service.ts';
import { backlogAnswer, statusAnswer } from './answers.ts';

const pin = 'k0rrekt-Pferd';
const handedOver = { standing: 'halted', tokenId: 'ab'.repeat(16), batches: 7, entries: 9, pending: 2, copy: 'mirror' } as const;
const script: Script = {
  'backlog.flush': () => backlogAnswer,
  'token.handOver': () => handedOver,
  'token.takeBack': (params) => {
    if (params.pin !== pin) throw new UkeyError('pin-incorrect', 'the PIN is wrong');
    return { standing: 'issuing-online' };
  },
  'service.status': () => statusAnswer,
};

const directory = mkdtempSync(join(tmpdir(), 'ukey-ctl-'));
const pinFile = join(directory, 'pin');
writeFileSync(pinFile, pin, { mode: 0o600 });
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe.concurrent('token replace', () => {
  it('uploads what waits, hands the ledger over, and says what comes next', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['token', 'replace', '--yes', '--json', '--socket', service.socketPath]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toEqual(handedOver);
    const inWords = await ctl(['token', 'replace', '--yes', '--socket', service.socketPath]);
    expect(inWords.stdout).toContain('ukeyctl store restore');
    expect(inWords.stdout).toContain('2 documents');
  });

  it('goes on without a line, and says that the backlog waits', async () => {
    const offline: Script = {
      ...script,
      'backlog.flush': () => {
        throw new UkeyError('offline', 'no answer in time');
      },
    };
    await using service = await FakeService.start({ script: offline });
    const run = await ctl(['token', 'replace', '--yes', '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(run.stderr).toContain('no answer in time');
  });

  it('is not done unasked, nor with a PIN that it does not need', async () => {
    await using service = await FakeService.start({ script });
    const unasked = await ctl(['token', 'replace', '--json', '--socket', service.socketPath]);
    expect(errorOf(unasked)).toMatchObject({ exit: 'usage' });
    const withPin = await ctl(['token', 'replace', '--yes', '--json', '--pin-file', pinFile, '--socket', service.socketPath]);
    expect(errorOf(withPin)).toMatchObject({ exit: 'usage' });
    expect(service.paramsOf('token.handOver')).toBeUndefined();
  });

  it('is cancelled with the PIN of the old token; a wrong one is told with its tries', async () => {
    await using service = await FakeService.start({ script });
    const cancel = ['token', 'replace', '--cancel', '--yes', '--json', '--socket', service.socketPath];
    const run = await ctl([...cancel, '--pin-file', pinFile]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toEqual({ standing: 'issuing-online' });
    expect(service.paramsOf('token.takeBack')).toEqual({ pin });
    const wrong = await ctl([...cancel, '--use-last-try'], { stdin: 'wr0ng-PIN' });
    expect(wrong.status).toBe(3);
    expect(errorOf(wrong)).toMatchObject({ code: 'pin-incorrect', triesLeft: 3 });
    expect(wrong.stdout + wrong.stderr).not.toContain('wr0ng-PIN');
  });
});
