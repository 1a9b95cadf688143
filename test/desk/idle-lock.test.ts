// Shows: a token is locked after as long without work as the charter says, and how it is opened again, with a stored PIN and without.
import { afterEach, describe, expect, test } from 'vitest';
import { isLockDue } from '#desk/idle-lock.ts';
import { type ParentHolder, startHolder } from '#holder/parent.ts';
import { decodeAdminEvent } from '#ipc-schema/admin.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';
import { StepClock } from '#test/support/step-clock.ts';

const minuteMs = 60_000;
const afterMinutes = 30;

test.each([
  [undefined, 365 * 24 * 60, false],
  [afterMinutes, 0, false],
  [afterMinutes, afterMinutes - 1 / minuteMs, false],
  [afterMinutes, afterMinutes, true],
  [1, 1, true],
  [7 * 24 * 60, 7 * 24 * 60 - 1, false],
])('a charter that says %s min locks what was idle for %s min: %s', (after, idle, due) => {
  expect(isLockDue({ afterMinutes: after, idleMs: idle * minuteMs })).toBe(due);
});

let rig: Rig;
let clock: StepClock;
afterEach(() => rig?.close());

async function shop(options: RigOptions = {}): Promise<void> {
  clock = new StepClock(Date.now(), true);
  const { overrides, grant } = options;
  rig = await openRig({ ...options, overrides: { clock, ...overrides }, grant: { lockAfterIdleMinutes: afterMinutes, ...grant } });
  await rig.till.issue(sale('first'));
  await rig.admin.call('backlog.flush', {});
}

const status = (): Promise<ServiceStatus> => rig.admin.call('service.status', {});
const standing = async (): Promise<string> => (await status()).standing;
/** The service looks every second. */
const looks = (count: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, count * 1_000 + 200));
const untilLocked = () => expect.poll(standing, { timeout: 5_000 }).toBe('locked');

/** What a subscriber hears of it. */
async function standingsHeard(): Promise<{ readonly heard: EventNotice[]; readonly client: Client }> {
  const heard: EventNotice[] = [];
  const client = await connect({ socketPath: rig.config.admin_socket, client: 'rig/1', onEvent: (notice) => heard.push(notice) });
  await client.subscribe(['standing']);
  return { heard, client };
}

describe('where a person logs in', { timeout: 30_000 }, () => {
  test('the token is locked, which is told with what to do, and stands in the audit trail; the PIN opens it again', async () => {
    await shop({ overrides: { auditWaits: { gatherMs: 20, calmMs: 50 } } });
    const { heard, client } = await standingsHeard();
    clock.pass((afterMinutes - 1) * minuteMs);
    await looks(1);
    expect(await standing()).not.toBe('locked');
    clock.pass(minuteMs);
    await untilLocked();
    expect(rig.running.custody.state.kind).toBe('locked');
    await expect(rig.till.call('invoice.issue', sale('late'))).rejects.toMatchObject({ code: 'locked' });
    await expect(rig.till.call('invoice.last', {})).rejects.toMatchObject({ code: 'locked' });
    const { reason, action } = await status();
    expect(heard.filter((notice) => notice['standing'] === 'locked')).toMatchObject([{ event: 'standing', reason, action }]);
    client.close();
    expect(reason).toContain(String(afterMinutes));
    expect(action).toContain('ukeyctl login');
    await rig.admin.call('session.login', { pin: rigPin });
    await looks(1);
    expect((await rig.till.issue(sale('late'))).number).toBe('A-00000002');
    const lockedBy = async (): Promise<string[]> => {
      const { entries } = await rig.admin.call('audit.list', {});
      const events = entries.map(({ body }) => decodeAdminEvent(Buffer.from(body ?? '', 'utf8')));
      const records = events.flatMap((event) => (event.event === 'audit' ? event.records : []));
      return records.filter(({ what }) => what === 'session.logout').map(({ who, outcome }) => `${who} ${outcome}`);
    };
    await expect.poll(lockedBy).toEqual(['service done']);
  });

  test('work keeps it open, looking at its status does not, and a machine that slept has been idle', async () => {
    await shop();
    for (let at = 0; at < 3; at += 1) {
      clock.pass((afterMinutes - 1) * minuteMs);
      await (at === 1 ? rig.till.call('invoice.last', {}) : rig.till.issue(sale(`work-${at}`)));
    }
    await looks(1);
    expect(await standing()).not.toBe('locked');
    clock.sleep((afterMinutes - 1) * minuteMs);
    await status();
    await rig.till.call('service.status', {});
    clock.sleep(minuteMs);
    await untilLocked();
  });
});

describe('where a PIN is stored', { timeout: 30_000 }, () => {
  test('the token stays locked until a till works; then all who ask are answered, and nothing was lost', async () => {
    await shop({ pinFile: true });
    clock.pass(afterMinutes * minuteMs);
    await untilLocked();
    expect((await status()).action).not.toContain('ukeyctl login');
    await looks(2);
    expect(await standing()).toBe('locked'); // no circle: nobody but a till opens it
    const issued = await Promise.all(Array.from({ length: 20 }, (_, at) => rig.till.issue(sale(`morning-${at}`))));
    expect(new Set(issued.map(({ number }) => number)).size).toBe(20);
    expect(await standing()).not.toBe('locked');
    await rig.admin.call('backlog.flush', {}); // its acknowledgement is committed, too
    clock.pass(afterMinutes * minuteMs);
    await untilLocked();
    expect((await rig.till.call('invoice.issue', sale('first'))).repeated).toBe(true);
  });

  test('a person who locks it is obeyed, before or after', async () => {
    await shop({ pinFile: true });
    clock.pass(afterMinutes * minuteMs);
    await untilLocked();
    await rig.admin.call('session.logout', {});
    await expect(rig.till.call('invoice.issue', sale('late'))).rejects.toMatchObject({ code: 'locked' });
    await rig.admin.call('session.login', { pin: rigPin });
    await rig.admin.call('session.logout', {});
    clock.pass(afterMinutes * minuteMs);
    await looks(1);
    await expect(rig.till.call('invoice.issue', sale('late'))).rejects.toMatchObject({ code: 'locked' });
  });

  test("a till opens it also where the token's process was replaced meanwhile", async () => {
    let holder: ParentHolder | null = null;
    const start = (config: Parameters<typeof startHolder>[0]['config'], events: Parameters<typeof startHolder>[0]['events']) => {
      holder = startHolder({ config, events, onChatter: () => undefined });
      return holder;
    };
    await shop({ pinFile: true, overrides: { startHolder: start } });
    clock.pass(afterMinutes * minuteMs);
    await untilLocked();
    await looks(1); // a process that dies while it logs out has not: that is another story
    const pid = (): number => (holder as ParentHolder | null)?.pid() ?? 0;
    const before = pid();
    process.kill(before, 'SIGKILL');
    await expect.poll(() => pid() !== before && pid() !== 0, { timeout: 10_000 }).toBe(true);
    await untilLocked();
    await looks(1);
    expect(await standing()).toBe('locked');
    expect((await rig.till.issue(sale('late'))).number).toBe('A-00000002');
  });
});
