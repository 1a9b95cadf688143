// Shows: a FLASH that fills up while the line is down: documents are refused before they get a number, and once the server has acknowledged what
// waits, issuing goes on by itself; the whole history stands on token and server together.
import { randomBytes } from 'node:crypto';
import { afterEach, expect, test } from 'vitest';
import { LedgerCheck } from '#ctl/ledger-check.ts';
import { openStore, remainderOf } from '#ctl/verify-store.ts';
import { connect } from '#ipc-schema/client.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';

let rig: Rig;
afterEach(() => rig.close());

const linesMax = 100;

/** About 40 KiB that do not compress. */
function large(key: string): ReturnType<typeof sale> {
  const lines = Array.from({ length: linesMax }, () => ({
    description: randomBytes(120).toString('base64'),
    quantity: '1',
    unitPrice: '0.01',
  }));
  return sale(key, { lines, brief: true });
}

/** Issues until the store is full. How many were issued. */
async function fill(from: number): Promise<number> {
  for (let at = from; at < from + 1_000; at += 1) {
    try {
      await rig.till.call('invoice.issue', large(`k${at}`));
    } catch (error) {
      if (error instanceof UkeyError && error.code === 'store-full') return at - from;
      throw error;
    }
  }
  throw new Error('the store does not fill up');
}

test('a full store takes acknowledgements, is freed, and issuing resumes by itself; nothing is lost', { timeout: 120_000 }, async () => {
  rig = await openRig({ flashMib: 16, mirror: true, grant: { keepDays: 0, templates: ['retail'] } });
  const told: unknown[] = [];
  const listener = await connect({
    socketPath: rig.config.admin_socket,
    client: 'listener/1',
    waitMs: 2_000,
    onEvent: ({ event, ...facts }) => told.push({ event, ...facts }),
  });
  await listener.subscribe(['store']);
  await rig.stopServer();
  const first = await fill(0);
  expect(first).toBeGreaterThan(50);
  const full = await rig.admin.call('service.status', {});
  expect(full.standing).toBe('store-full');
  expect(full.store?.usedPercent).toBeGreaterThan(90);
  await expect.poll(() => told.at(-1), { timeout: 20_000 }).toMatchObject({ event: 'store', step: 90 });
  listener.close();
  // Refused documents took no number.
  const last = await rig.till.call('invoice.last', {});
  expect(Number(last.number.slice(2))).toBe(first);
  await rig.startServer();
  await rig.admin.call('backlog.flush', {});
  await expect.poll(async () => (await rig.admin.call('service.status', {})).standing, { timeout: 20_000 }).toBe('issuing-online');
  const next = await rig.till.call('invoice.issue', large('next'));
  expect(Number(next.number.slice(2))).toBe(first + 1);
  // A released document is the server's; its key makes no second one.
  await expect(rig.till.call('invoice.get', { key: 'k0' })).rejects.toMatchObject({ code: 'not-found' });
  await expect(rig.till.call('invoice.issue', { ...large('k0') })).rejects.toMatchObject({ code: 'key-reused' });
  // The batch that brought charter and template is gone: they are carried.
  await rig.restart();
  expect((await rig.till.call('invoice.issue', large('after'))).number).toBe(`A-${String(first + 2).padStart(8, '0')}`);
  await rig.running.close();
  const pin = Buffer.from(rigPin);
  const token = rig.config.tokens[0];
  const config = { module: null, softTokenPath: token.soft_token as string, flashPath: token.flash };
  const store = await openStore(config, pin, () => undefined);
  try {
    expect(store.mount.oldestBatch).toBeGreaterThan(1);
    const { certificate, authorityCertificate } = store.mount;
    const check = new LedgerCheck({ certificate, authorityCertificate, ...(await remainderOf(store)) });
    for await (const { bytes } of store.batches()) check.add(bytes);
    expect(check.result()).toMatchObject({ holds: true, findings: [], firstBatch: store.mount.oldestBatch });
  } finally {
    await store.close();
  }
});
