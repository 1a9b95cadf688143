// `ukeyctl health`: an exit status for whoever watches a branch without a person.
import { expect, it } from 'vitest';
import type { Standing } from '#ipc-schema/status.ts';
import { statusAnswer } from '#test/ctl/answers.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FakeService } from '#test/support/fake-service.ts';

it.each([
  ['issuing-online', 0],
  ['issuing-offline', 0],
  ['locked', 7],
  ['halted', 7],
] as const satisfies readonly [Standing, number][])('%s ends with %i', async (standing, status) => {
  await using service = await FakeService.start({ script: { 'service.status': () => ({ ...statusAnswer, standing, action: 'Do it.' }) } });
  const run = await ctl(['health', '--json', '--socket', service.socketPath]);
  expect(run).toMatchObject({ status, stderr: '' });
  expect(jsonOf(run)).toMatchObject({ ready: status === 0, standing, action: 'Do it.' });
});

it('nobody there ends with 4', async () => {
  const run = await ctl(['health', '--json', '--socket', '/nowhere/ukeyd.sock']);
  expect(run.status).toBe(4);
  expect(errorOf(run)).toMatchObject({ exit: 'unreachable' });
});
