// `ukeyctl health`: an exit status for whoever watches a branch without a person.
import { expect, it } from 'vitest';
import type { Standing } from '#ipc-schema/status.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FakeService } from '#test/support/fake-service.ts';

const tokenAt = (token: string, standing: Standing) => ({
  ...{ token, standing, tokenId: null, issuer: null },
  reason: 'why',
  action: 'Do it.',
});

it.each([
  [['issuing-online'], 0],
  [['issuing-offline'], 0],
  [['locked'], 7],
  [['halted'], 7],
  [['issuing-online', 'issuing-offline'], 0],
  [['issuing-online', 'store-full'], 7],
] as const satisfies readonly [readonly Standing[], number][])('%j ends with %i', async (standings, status) => {
  const tokens = standings.map((standing, at) => tokenAt(`t${at}`, standing));
  await using service = await FakeService.start({ script: { 'service.tokens': () => ({ tokens }) } });
  const run = await ctl(['health', '--json', '--socket', service.socketPath]);
  expect(run).toMatchObject({ status, stderr: '' });
  expect(jsonOf(run)).toEqual({ ready: status === 0, tokens });
  expect((await ctl(['health', '--token', 't0', '--socket', service.socketPath])).status).toBe(standings[0].startsWith('issuing') ? 0 : 7);
  expect((await ctl(['health', '--token', 'other', '--socket', service.socketPath])).status).toBe(2);
});

it('nobody there ends with 4', async () => {
  const run = await ctl(['health', '--json', '--socket', '/nowhere/ukeyd.sock']);
  expect(run.status).toBe(4);
  expect(errorOf(run)).toMatchObject({ exit: 'unreachable' });
});
