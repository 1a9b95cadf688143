// `ukeyctl audit`: the trail for people and for programs.
import { expect, it } from 'vitest';
import { type AdminEvent, encodeAdminEvent } from '#ipc-schema/admin.ts';
import type { Params } from '#ipc-schema/methods.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FakeService } from '#test/support/fake-service.ts';

const at = '2026-03-02T09:30:00.000Z';
const entry = (sequence: number, event: AdminEvent) => ({
  ...{ sequence, batch: sequence, issuedAt: at, body: Buffer.from(encodeAdminEvent(event)).toString('utf8') },
});
const newest = [
  entry(9, { event: 'handover' }),
  entry(7, {
    event: 'audit',
    records: [
      { what: 'service.start', at, who: 'service', outcome: 'done', digest: 'ab'.repeat(32), kept: true },
      { what: 'session.login', at, who: 'admin', outcome: 'pin-incorrect', times: 3, lastAt: at },
    ],
    omitted: 2,
  }),
];
const older = [{ sequence: 4, batch: 4, issuedAt: null, body: null }];

const script = {
  'audit.list': ({ before }: Params<'audit.list'>) =>
    before === undefined ? { entries: newest, nextBefore: 7, waiting: 1 } : { entries: older, nextBefore: null, waiting: 1 },
};

it('tells each record, newest first, over all pages', async () => {
  await using service = await FakeService.start({ script });
  const run = await ctl(['audit', '--json', '--socket', service.socketPath]);
  expect(run).toMatchObject({ status: 0, stderr: '' });
  const { lines, waiting } = jsonOf(run) as unknown as { lines: Record<string, unknown>[]; waiting: number };
  expect(waiting).toBe(1);
  expect(lines.map(({ sequence, what, who, outcome }) => [sequence, what, who, outcome])).toEqual([
    [9, 'handover', 'service', 'done'],
    [7, 'omitted', 'service', 'done'],
    [7, 'session.login', 'admin', 'pin-incorrect'],
    [7, 'service.start', 'service', 'done'],
    [4, 'released', 'service', 'done'],
  ]);
  const text = await ctl(['audit', '--socket', service.socketPath]);
  expect(text.status).toBe(0);
  expect(text.stdout).toContain('pin-incorrect');
});

it('asks for no more than it was told to', async () => {
  await using service = await FakeService.start({ script });
  expect((await ctl(['audit', '--limit', '2', '--socket', service.socketPath])).status).toBe(0);
  const asked = service.requests.filter(({ method }) => method === 'audit.list');
  expect(asked.map(({ params }) => params)).toEqual([{ limit: 2 }]);
  const run = await ctl(['audit', '--limit', 'x', '--json']);
  expect(run.status).toBe(2);
  expect(errorOf(run)).toMatchObject({ field: '--limit' });
});
