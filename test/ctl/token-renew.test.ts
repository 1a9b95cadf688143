import { describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FakeService, type Script } from '#test/support/fake-service.ts';

const renewed = {
  standing: 'issuing-online',
  tokenId: 'ab'.repeat(16),
  previousExpires: '2036-11-28T19:00:00.000Z',
  expires: '2046-11-26T19:00:00.000Z',
} as const;

describe.concurrent('token renew', () => {
  it('says from when to when', async () => {
    await using service = await FakeService.start({ script: { 'token.renewCertificate': () => renewed } });
    const run = await ctl(['token', 'renew', '--json', '--socket', service.socketPath]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toEqual(renewed);
    const inWords = await ctl(['token', 'renew', '--socket', service.socketPath]);
    for (const part of [renewed.previousExpires, renewed.expires]) expect(inWords.stdout).toContain(part);
  });

  it.each(['offline', 'forbidden', 'locked'] as const)('tells when it is %s', async (code) => {
    const script: Script = {
      'token.renewCertificate': () => {
        throw new UkeyError(code, 'asked for by the test', { action: 'Do something.' });
      },
    };
    await using service = await FakeService.start({ script });
    const run = await ctl(['token', 'renew', '--json', '--socket', service.socketPath]);
    expect(run.status).not.toBe(0);
    expect(errorOf(run)).toMatchObject({ code, action: 'Do something.' });
  });
});
