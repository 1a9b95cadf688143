// The audit trail: what is noted stands in the ledger, sealed; what had to wait says so; nobody waits for it, and it makes no work by itself.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LedgerCheck } from '#ctl/ledger-check.ts';
import { Audit, withRecord } from '#desk/audit.ts';
import { systemClock } from '#ground/clock.ts';
import { digestOf } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import type { HolderStatus } from '#holder/holder.ts';
import { type AdminEvent, decodeAdminEvent } from '#ipc-schema/admin.ts';
import type { AuditRecord } from '#ipc-schema/audit.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';

let rig: Rig;
let isOpen = false;
afterEach(async () => {
  if (isOpen) await rig.close();
  isOpen = false;
});

const quick = { auditWaits: { gatherMs: 20, calmMs: 50 } };
const open = async (options: RigOptions = {}): Promise<void> => {
  rig = await openRig({ ...options, overrides: { ...quick, ...options.overrides } });
  isOpen = true;
};

/** Oldest first. */
async function events(): Promise<AdminEvent[]> {
  const found: AdminEvent[] = [];
  for (let before: number | null = Number.MAX_SAFE_INTEGER; before !== null; ) {
    const page: { entries: { body: string | null }[]; nextBefore: number | null } = await rig.admin.call('audit.list', {
      before,
      limit: 2,
    });
    found.unshift(...page.entries.map(({ body }) => decodeAdminEvent(Buffer.from(body ?? '', 'utf8'))).reverse());
    before = page.nextBefore;
  }
  return found;
}

async function records(): Promise<AuditRecord[]> {
  return (await events()).flatMap((event) => (event.event === 'audit' ? event.records : []));
}

/** Once all of these stand there. */
async function until(...wanted: readonly Partial<AuditRecord>[]): Promise<AuditRecord[]> {
  const missing = async (): Promise<readonly Partial<AuditRecord>[]> => {
    const all = await records();
    return wanted.filter(
      (one) => !all.some((record) => Object.entries(one).every(([name, value]) => record[name as keyof AuditRecord] === value)),
    );
  };
  await expect.poll(missing, { timeout: 10_000 }).toEqual([]);
  return await records();
}

const waitingFile = (): string => path.join(rig.config.state, 'audit-waiting.json');
const nextSequence = (): number => rig.running.custody.ledger?.tip.nextSequence ?? 0;
const quiet = async (): Promise<number> => {
  let before = -1;
  await expect
    .poll(
      () => {
        const now = nextSequence();
        const isSame = now === before;
        before = now;
        return isSame;
      },
      { interval: 300, timeout: 10_000 },
    )
    .toBe(true);
  return before;
};

test('what persons do stands in the ledger, with who and how it went, and the chain holds', { timeout: 60_000 }, async () => {
  await open();
  await rig.admin.call('terminal.enrol', { terminal: 'auditor-1', role: 'auditor' });
  await rig.admin.call('terminal.remove', { terminal: 'auditor-1' });
  await expect(rig.admin.call('terminal.remove', { terminal: 'nobody' })).rejects.toMatchObject({ code: 'not-found' });
  await rig.admin.call('session.changePin', { pin: rigPin, newPin: '246802' });
  await rig.admin.call('session.changePin', { pin: '246802', newPin: rigPin });
  const all = await until(
    { what: 'service.start', who: 'service', outcome: 'done', digest: digestOf(rig.config), kept: true },
    { what: 'token.provision', who: 'admin', outcome: 'done' },
    { what: 'terminal.enrol', who: 'admin', outcome: 'done', terminal: 'auditor-1' },
    { what: 'terminal.remove', who: 'admin', outcome: 'done', terminal: 'auditor-1' },
    { what: 'terminal.remove', who: 'admin', outcome: 'not-found', terminal: 'nobody' },
    { what: 'session.changePin', who: 'admin', outcome: 'done' },
  );
  expect(JSON.stringify(all)).not.toMatch(new RegExp(`${rigPin}|246802`));

  const identity = await rig.admin.call('service.identity', {});
  const { certificate, authorityCertificate } = identity;
  const ledger = new LedgerCheck({
    certificate: Buffer.from(certificate, 'base64'),
    authorityCertificate: Buffer.from(authorityCertificate, 'base64'),
  });
  for (let from: number | null = 1; from !== null; ) {
    const page: { batches: { bytes: string }[]; nextBatch: number | null } = await rig.admin.call('ledger.read', { fromBatch: from });
    for (const { bytes } of page.batches) ledger.add(Buffer.from(bytes, 'base64'));
    from = page.nextBatch;
  }
  expect(ledger.result()).toMatchObject({ holds: true });
  await rig.admin.call('backlog.flush', {});
  const isAcknowledged = (): boolean => {
    const { ackedBatch = 0, lastWeightyBatch = 1 } = rig.running.custody.ledger?.tip ?? {};
    return ackedBatch >= lastWeightyBatch;
  };
  await expect.poll(isAcknowledged, { timeout: 10_000 }).toBe(true);
});

test('failed logins and a logout wait for the next login, say so, and outlive the process', { timeout: 60_000 }, async () => {
  await open();
  await until({ what: 'token.provision' });
  await rig.admin.call('session.logout', {});
  for (let at = 0; at < 2; at += 1)
    await expect(rig.admin.call('session.login', { pin: '999999' })).rejects.toMatchObject({ code: 'pin-incorrect' });
  expect(existsSync(waitingFile())).toBe(true);
  expect(readFileSync(waitingFile(), 'utf8')).not.toContain('999999');
  await rig.restart();
  const all = await until(
    { what: 'session.logout', who: 'admin', outcome: 'done', kept: true },
    { what: 'session.login', outcome: 'pin-incorrect', times: 2, kept: true },
    { what: 'session.login', outcome: 'done' },
  );
  const order = all.map(({ what, outcome }) => `${what} ${outcome}`);
  expect(order.indexOf('session.logout done')).toBeLessThan(order.indexOf('session.login pin-incorrect'));
  expect(order.indexOf('session.login pin-incorrect')).toBeLessThan(order.lastIndexOf('session.login done'));
  expect(existsSync(waitingFile())).toBe(false);
  await rig.admin.call('session.login', { pin: 'anything' }); // open already: nothing is tried
  await quiet();
  expect((await records()).filter(({ what, outcome }) => what === 'session.login' && outcome === 'done').length).toBe(1);
});

test('starts without end are one record, and in their own time one entry', { timeout: 60_000 }, async () => {
  await open({ overrides: { auditWaits: { gatherMs: 20, calmMs: 3_600_000 } } });
  await until({ what: 'token.provision' });
  for (let at = 0; at < 4; at += 1) {
    await rig.running.close();
    await rig.startLocked();
  }
  const { records: kept } = JSON.parse(readFileSync(waitingFile(), 'utf8')) as { records: AuditRecord[] };
  expect(kept.filter(({ what }) => what === 'service.start')).toMatchObject([{ times: 4, kept: true }]);
  const before = nextSequence();
  await expect.poll(async () => (await rig.admin.call('service.status', {})).reason).not.toBe('the token is being opened');
  await rig.admin.call('session.login', { pin: rigPin });
  await until({ what: 'session.login', outcome: 'done' }, { what: 'service.start', times: 4 });
  expect(nextSequence() - before).toBeGreaterThan(0);
  expect((await events()).filter(({ event }) => event === 'audit').length).toBe(2);
});

test('what no person did waits for calm', { timeout: 60_000 }, async () => {
  await open({ pinFile: true, overrides: { auditWaits: { gatherMs: 20, calmMs: 3_600_000 } } });
  await until({ what: 'token.provision' });
  const entries = (await events()).length;
  for (let at = 0; at < 2; at += 1) {
    await rig.restart();
    await rig.till.issue(sale(`k${at}`));
  }
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect((await events()).length).toBe(entries);
  expect((await rig.admin.call('audit.list', {})).waiting).toBeGreaterThan(1);
  await rig.admin.call('terminal.enrol', { terminal: 'till-2', role: 'till' });
  await until(
    { what: 'service.start', times: 2 },
    { what: 'stored-pin.login', outcome: 'done' },
    { what: 'terminal.enrol', terminal: 'till-2' },
  );
});

test('the stored PIN is told apart from a person', { timeout: 60_000 }, async () => {
  await open({ pinFile: true });
  await rig.restart();
  await until({ what: 'stored-pin.login', who: 'service', outcome: 'done' });
  writeFileSync(path.join(rig.directory, 'pin'), '000000\n', { mode: 0o600 });
  await rig.running.close();
  await rig.startLocked();
  await expect.poll(async () => (await rig.admin.call('service.status', {})).token?.storedPin, { timeout: 10_000 }).toBe('wrong');
  await rig.admin.call('session.login', { pin: rigPin });
  await until({ what: 'stored-pin.login', who: 'service', outcome: 'pin-incorrect', kept: true }, { what: 'session.login', who: 'admin' });
});

test('a reload and an export are noted; going on reading is not', { timeout: 60_000 }, async () => {
  await open();
  await until({ what: 'token.provision' });
  const erp = await rig.connectAs('erp-1', 'erp');
  const changed = { ...rig.config, log: { ...rig.config.log, level: 'debug' as const } };
  rig.running.reload(changed);
  await until({ what: 'service.reload', digest: digestOf(changed) }, { what: 'terminal.enrol', terminal: 'erp-1' });
  let { nextBatch, newestBatch } = await erp.call('ledger.read', { fromBatch: 1 });
  await until({ what: 'ledger.read', who: 'erp-1', outcome: 'done', fromBatch: 1 });
  for (let at = 0; at < 5; at += 1) {
    ({ nextBatch, newestBatch } = await erp.call('ledger.read', { fromBatch: nextBatch ?? newestBatch + 1 }));
    await quiet();
  }
  expect((await records()).filter(({ what }) => what === 'ledger.read').length).toBe(1);
  await erp.call('ledger.read', { fromBatch: 1 });
  await expect.poll(async () => (await records()).filter(({ what }) => what === 'ledger.read').length, { timeout: 10_000 }).toBe(2);
});

test('a shop that is left alone writes nothing more, acknowledgements included', { timeout: 60_000 }, async () => {
  await open();
  await until({ what: 'token.provision' });
  await rig.admin.call('backlog.flush', {});
  const before = await quiet();
  await rig.admin.call('backlog.flush', {});
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(nextSequence()).toBe(before);
});

test('it counts against no limit', { timeout: 60_000 }, async () => {
  await open({ grant: { limits: { hours: 72, count: 2, amount: '10000000', single: '100000' } } });
  await until({ what: 'token.provision' });
  for (const terminal of ['a', 'b', 'c']) {
    await rig.admin.call('terminal.enrol', { terminal, role: 'till' });
    await until({ what: 'terminal.enrol', terminal });
  }
  await rig.stopServer();
  await rig.till.issue(sale('k1'));
  await rig.till.issue(sale('k2'));
  await expect(rig.till.issue(sale('k3'))).rejects.toMatchObject({ code: 'limit-count' });
  await rig.admin.call('terminal.enrol', { terminal: 'd', role: 'till' });
  await until({ what: 'terminal.enrol', terminal: 'd' });
});

test('what came while the file of those that wait was spoilt is told as lost', { timeout: 60_000 }, async () => {
  await open();
  await until({ what: 'token.provision' });
  await rig.running.close();
  writeFileSync(waitingFile(), '{"format":"ukey-audit/1","records":"spoilt"');
  await rig.startLocked();
  await expect.poll(async () => (await rig.admin.call('service.status', {})).reason).not.toBe('the token is being opened');
  await rig.admin.call('session.login', { pin: rigPin });
  await until({ what: 'session.login', outcome: 'done' });
  expect((await events()).some((event) => event.event === 'audit' && event.omitted === 1)).toBe(true);
});

test('what cannot be written delays nobody and is written later', { timeout: 60_000 }, async () => {
  await open();
  await until({ what: 'token.provision' });
  rmSync(rig.config.state, { recursive: true, force: true }); // neither file nor index can be kept
  expect((await rig.till.issue(sale('k1'))).repeated).toBe(false);
  rig.running.reload(rig.config);
  await until({ what: 'service.reload' });
});

describe('a ledger that takes nothing now', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-audit-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test.each(['the FLASH is full', 'it refuses'])('is not pressed, and gets all when it does again: %s', async (why) => {
    let isWilling = false;
    let tries = 0;
    const bodies: AdminEvent[] = [];
    const ledger = {
      full: false,
      addOwn: async ({ body }: { body(): Uint8Array }) => {
        if (!isWilling) throw new UkeyError('busy', 'not now');
        bodies.push(decodeAdminEvent(body()));
      },
    } as unknown as Ledger;
    const holder = {
      status: async () => {
        tries += 1;
        return { usedPercent: why === 'the FLASH is full' && !isWilling ? 100 : 50 } as HolderStatus;
      },
    };
    const waits = { gatherMs: 10, calmMs: 400 };
    const audit = new Audit({ custody: { ledger }, holder, clock: systemClock, log: silentLog, stateDirectory: folder, waits });
    const enrol = (at: number): void => audit.note({ what: 'terminal.enrol', who: 'admin', outcome: 'done', terminal: `t${at}` });
    for (let at = 0; at < 100; at += 1) enrol(at);
    await new Promise((resolve) => setTimeout(resolve, 300));
    enrol(100);
    expect(tries).toBe(1);
    expect(audit.waiting).toBe(101);
    isWilling = true;
    await expect.poll(() => audit.waiting, { timeout: 5_000 }).toBe(0);
    expect(bodies.flatMap((event) => (event.event === 'audit' ? event.records.map(({ terminal }) => terminal) : []))).toEqual(
      Array.from({ length: 101 }, (_, at) => `t${at}`),
    );
    await audit.close();
  });

  test('what is noted again and again puts nothing off, and crowds out nothing that a person did', async () => {
    const bodies: AdminEvent[] = [];
    const ledger = {
      full: false,
      addOwn: async ({ body }: { body(): Uint8Array }) => void bodies.push(decodeAdminEvent(body())),
    } as unknown as Ledger;
    const holder = { status: async () => ({ usedPercent: 1 }) as HolderStatus };
    const waits = { gatherMs: 200, calmMs: 3_600_000 };
    const audit = new Audit({ custody: { ledger }, holder, clock: systemClock, log: silentLog, stateDirectory: folder, waits });
    for (let at = 0; at < 300; at += 1) audit.note({ what: 'ledger.read', who: `erp-${at}`, outcome: 'done', fromBatch: 1 });
    expect(audit.waiting).toBe(32);
    audit.note({ what: 'session.login', who: 'admin', outcome: 'pin-incorrect' });
    const startedMs = performance.now();
    const isNoted = (): boolean =>
      bodies.some((event) => event.event === 'audit' && event.records.some(({ what }) => what === 'session.login'));
    for (let batch = 1; !isNoted() && performance.now() - startedMs < 5_000; batch += 1) {
      audit.note({ what: 'ledger.read', who: 'erp-1', outcome: 'done', fromBatch: batch });
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(isNoted()).toBe(true);
    await audit.close();
  });

  test('what comes while an entry is refused keeps to what may wait', async () => {
    const refusal = Promise.withResolvers<never>();
    let asked = 0;
    const ledger = {
      full: false,
      addOwn: () => {
        asked += 1;
        return refusal.promise;
      },
    } as unknown as Ledger;
    const holder = { status: async () => ({ usedPercent: 1 }) as HolderStatus };
    const waits = { gatherMs: 10, calmMs: 3_600_000 };
    const custody: { ledger: Ledger | null } = { ledger };
    const audit = new Audit({ custody, holder, clock: systemClock, log: silentLog, stateDirectory: folder, waits });
    const enrol = (at: number): void => audit.note({ what: 'terminal.enrol', who: 'admin', outcome: 'done', terminal: `t${at}` });
    for (let at = 0; at < 256; at += 1) enrol(at);
    await expect.poll(() => asked).toBe(1);
    for (let at = 256; at < 300; at += 1) enrol(at);
    custody.ledger = null;
    refusal.reject(new UkeyError('token-failed', 'it hangs'));
    await audit.close();
    const again = new Audit({ custody, holder, clock: systemClock, log: silentLog, stateDirectory: folder });
    expect(again.waiting).toBe(256); // none was lost by writing more than is read
  });

  test('more than may wait are counted', async () => {
    const audit = new Audit({
      ...{ custody: { ledger: null }, holder: { status: () => Promise.reject(new Error('none')) }, clock: systemClock, log: silentLog },
      stateDirectory: folder,
    });
    for (let at = 0; at < 300; at += 1) audit.note({ what: 'terminal.enrol', who: 'admin', outcome: 'done', terminal: `t${at}` });
    await audit.close();
    const kept = JSON.parse(readFileSync(path.join(folder, 'audit-waiting.json'), 'utf8')) as { records: unknown[]; omitted: number };
    expect([kept.records.length, kept.omitted]).toEqual([256, 44]);
  });
});

describe('what was done several times is one record', () => {
  const note: AuditRecord = { what: 'session.login', at: '2026-01-01T00:00:00Z', who: 'admin', outcome: 'pin-incorrect' };
  const later = { ...note, at: '2026-01-01T00:01:00Z' };

  test('with how far back was read', () => {
    const read = (fromBatch: number): AuditRecord => ({ ...note, what: 'ledger.read', outcome: 'done', fromBatch });
    expect(withRecord(withRecord([], read(7)), read(3))).toMatchObject([{ fromBatch: 3, times: 2 }]);
  });

  test('with how often, and when first and last', () => {
    const once = withRecord([], note);
    expect(once).toEqual([note]);
    expect(withRecord(withRecord(once, later), later)).toEqual([{ ...note, times: 3, lastAt: later.at }]);
  });

  const others: readonly Partial<AuditRecord>[] = [
    ...[
      { who: 'erp-1' },
      { outcome: 'done' as const },
      { terminal: 'till-1' },
      { kept: true as const },
      { what: 'session.logout' as const },
    ],
  ];
  test.each(others)('unless it differs: %j', (other) => {
    expect(withRecord([note], { ...later, ...other }).length).toBe(2);
  });
});
