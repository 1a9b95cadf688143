import { expect, test } from 'vitest';
import { ackWaitMs, Deliveries } from '#desk/deliveries.ts';
import { methods } from '#ipc-schema/methods.ts';
import { openRig, sale } from '#test/support/rig.ts';
import { twoTokens } from '#test/support/two-tokens.ts';

test('callers are told how long their wait for an acknowledgement may last', () => {
  expect(methods['invoice.issue'].summary).toContain(`${ackWaitMs / 1_000} s`);
});

test('who waits for one token is not told what the server says of another, and need not wait once that one is open', async () => {
  const [first, spare] = [new Uint8Array(16).fill(1), new Uint8Array(16).fill(2)];
  const deliveries = new Deliveries(() => undefined);
  const waits = [deliveries.wait(first, 7), deliveries.wait(first, 8), deliveries.wait(spare, 7), deliveries.wait(first, 9)];
  deliveries.acknowledged(first, 7);
  deliveries.acknowledged(spare, 100);
  deliveries.opened(first);
  deliveries.acknowledged(first, 8);
  deliveries.opened(spare);
  expect(await Promise.all(waits)).toEqual([true, true, true, false]);
});

test('a till that waits while its token is exchanged is told that its document waits', async () => {
  const rig = await openRig({ line: true, pinFile: true });
  try {
    const { first, spare, swap } = await twoTokens(rig);
    const status = () => rig.admin.call('service.status', {});
    const isIssuing = () => expect.poll(async () => (await status()).standing, { timeout: 5_000 }).toMatch(/^issuing/);
    // The spare's ledger is the longer one: what is acknowledged of it covers the numbers of the first one's batches.
    await swap('first', 'spare');
    await isIssuing();
    for (let at = 0; at < 5; at += 1) await rig.till.issue(sale(`spare-${at}`));
    await swap('spare', 'first');
    await isIssuing();
    await rig.admin.call('backlog.flush', {});
    rig.line.state = 'silent';
    rig.line.hangUp();
    const waiting = rig.till.call('invoice.issue', sale('waits', { wait: 'acknowledged' }));
    await expect.poll(async () => (await status()).backlog?.pending).toBe(1);
    await swap('first', 'spare');
    rig.line.state = 'up';
    rig.line.hangUp();
    const issued = await waiting;
    expect([issued.delivery, JSON.parse(issued.document ?? '').token]).toEqual(['pending', first]);
    await isIssuing();
    expect((await status()).token?.tokenId).toBe(spare);
    await swap('spare', 'first');
    await expect.poll(async () => (await status()).backlog?.pending, { timeout: 5_000 }).toBe(0);
    expect(await rig.till.call('invoice.issue', sale('waits'))).toMatchObject({ repeated: true, delivery: 'acknowledged' });
  } finally {
    await rig.close();
  }
}, 40_000);
