import { afterEach, expect, test } from 'vitest';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';
import { StepClock } from '#test/support/step-clock.ts';

const dayMs = 24 * 3_600_000;
let rig: Rig;
afterEach(() => rig?.close());

const status = (): Promise<ServiceStatus> => rig.admin.call('service.status', {});
const standing = async (): Promise<string> => (await status()).standing;
const flush = (): Promise<unknown> => rig.admin.call('backlog.flush', {}).catch(() => undefined);
const documents = (): number => rig.running.custody.ledger?.tip.documents ?? -1;

test.each([30, -30])('a clock that is off by %i days is noticed while the server proves the time; corrected, it issues', async (days) => {
  const clock = new StepClock(Date.now(), true);
  rig = await openRig({ overrides: { clock } });
  await expect.poll(standing).toBe('issuing-online');
  await rig.till.issue(sale('before'));
  clock.jump(days * dayMs);
  await expect(rig.till.call('invoice.issue', sale('during'))).rejects.toMatchObject({ code: 'clock-untrusted' });
  expect(await status()).toMatchObject({ standing: 'clock-untrusted', clock: { trusted: false } });
  await flush(); // what waited goes up all the same, and its acknowledgement is written
  expect((await status()).backlog?.pending).toBe(0);
  expect(documents()).toBe(1);
  clock.jump(-days * dayMs);
  expect(await status()).toMatchObject({ standing: 'issuing-online', clock: { trusted: true } });
  const after = await rig.till.issue(sale('after'));
  expect(Math.abs(Date.parse(after.issuedAt) - Date.now())).toBeLessThan(60_000);
});

test('a ledger that was made ahead without a line goes on once the clock is corrected and the server proves it; its time never runs back', async () => {
  const clock = new StepClock(Date.now(), true);
  rig = await openRig({ line: true, overrides: { clock } });
  await expect.poll(standing).toBe('issuing-online');
  rig.line.state = 'down';
  rig.line.hangUp();
  await rig.restart();
  clock.jump(30 * dayMs);
  const ahead = await rig.till.issue(sale('ahead')); // nobody can know
  clock.jump(-30 * dayMs);
  await expect(rig.till.call('invoice.issue', sale('unproven'))).rejects.toMatchObject({ code: 'clock-untrusted' });
  rig.line.state = 'up';
  await flush();
  await expect.poll(standing).toBe('issuing-online');
  const after = await rig.till.issue(sale('after'));
  expect(after.issuedAt).toBe(ahead.issuedAt);
});

test('a machine that slept for days is not taken for one whose clock was set', async () => {
  const clock = new StepClock(Date.now(), true);
  rig = await openRig({ line: true, overrides: { clock } });
  await expect.poll(standing).toBe('issuing-online');
  rig.line.state = 'down';
  rig.line.hangUp();
  clock.sleep(3 * dayMs);
  await rig.till.issue(sale('monday'));
  expect((await status()).clock.trusted).toBe(true);
});
