// Shows: a token that is pulled at any moment: how soon it is noticed and how often it is looked for; at each call of KEY and FLASH while a ledger is opened, and at
// each while a batch is signed and written. What was durable is there when it is plugged again, and it is open again with its PIN.
import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { FakeToken } from '#test/support/fake-token.ts';
import { codeOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import type { WriteFault } from '#test/support/memory-device.ts';
import { MemoryRig } from './rigs.ts';

let rig: MemoryRig | null = null;
afterEach(async () => {
  await rig?.holder.close();
  rig = null;
});

/** A token that is pulled at a call that the test chooses, whatever the call is. */
class PulledToken extends FakeToken {
  /** Calls until it is pulled; null: it stays. */
  callsLeft: number | null = null;
  calls = 0;

  override facts = this.#counting(super.facts);
  override login = this.#counting(super.login);
  override publicKey = this.#counting(super.publicKey);
  override sign = this.#counting(super.sign);
  override unwrapDataKey = this.#counting(super.unwrapDataKey);
  override readObject = this.#counting(super.readObject);
  override writeObject = this.#counting(super.writeObject);

  #counting<A extends unknown[], R>(call: (...args: A) => R): (...args: A) => R {
    return (...args) => {
      this.calls += 1;
      if (this.callsLeft === 0) this.isPresent = false;
      else if (this.callsLeft !== null) this.callsLeft -= 1;
      if (!this.isPresent) {
        this.isLoggedIn = false;
        throw new UkeyError('no-token', 'pulled');
      }
      return call.apply(this, args);
    };
  }
}

async function plugAndOpen(from: number, stored: readonly string[], next: string): Promise<string[]> {
  if (rig === null) throw new Error('no rig');
  rig.plug();
  await rig.watch.until('locked', from);
  const mount = await rig.holder.login(pinBytes(), false);
  await rig.holder.commit(new DraftMaker(mount).next([next])).durable;
  const found = await readVerified(rig.holder, mount);
  expect(found.slice(0, stored.length)).toEqual(stored);
  return found;
}

describe('a token that is pulled', () => {
  const pollMs = 100;

  test('is noticed at the second look at the latest, and so is its return; it is looked for by the clock, not in a loop', async () => {
    const token = new PulledToken();
    let looks = 0;
    rig = new MemoryRig({ pollMs, onLooked: () => (looks += 1) }, token);
    await rig.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    for (const isBusy of [false, true]) {
      if (isBusy) await rig.holder.commit(drafts.next(['busy'])).durable; // its signature stands for one look
      const [from, before] = [rig.watch.seen.length, looks];
      rig.pull();
      await rig.watch.until('absent', from);
      expect(looks - before).toBeLessThanOrEqual(2);
      const [calls, atMs] = [token.calls, performance.now()];
      await setTimeout(10 * pollMs);
      const most = (performance.now() - atMs) / pollMs + 1;
      expect(token.calls - calls).toBeLessThanOrEqual(most);
      expect(token.calls).toBeGreaterThan(calls);
      const again = looks;
      rig.plug();
      await rig.watch.until('locked', from);
      expect(looks - again).toBeLessThanOrEqual(2);
      drafts.nextBatch = (await rig.holder.login(pinBytes(), false)).nextBatch;
    }
  });
});

describe('a token that is pulled while its ledger is opened', { timeout: 60_000 }, () => {
  test('at any call of the KEY, is opened when it is back, with all that it had', async () => {
    const token = new PulledToken();
    rig = new MemoryRig({}, token);
    await rig.watch.until('blank');
    const stored = ['a', 'b'];
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    for (const body of stored) await rig.holder.commit(drafts.next([body])).durable;
    await rig.holder.logout();
    let points = 0;
    for (let isThrough = false; !isThrough; points += 1) {
      const from = rig.watch.seen.length;
      token.callsLeft = points;
      const code = await codeOf(rig.holder.login(pinBytes(), false));
      isThrough = token.isPresent;
      token.callsLeft = null;
      if (isThrough) break;
      expect(['no-token', 'token-failed', 'not refused']).toContain(code);
      await rig.watch.until('absent', from);
      expect(token.triesLeft).toBe(3);
      stored.push(`after-${points}`);
      expect(await plugAndOpen(from, stored.slice(0, -1), `after-${points}`)).toEqual(stored);
      await rig.holder.logout();
    }
    expect(points).toBeGreaterThan(5);
  });

  test('at any read or write of the FLASH, is opened when it is back, with all that it had', async () => {
    let left = Number.POSITIVE_INFINITY;
    let isReached = false;
    const token = new FakeToken();
    const memory: MemoryRig = new MemoryRig(
      {
        openDevice: async (readOnly) => {
          const device = readOnly ? await memory.flash() : memory.openForWriting();
          if (readOnly) return device;
          return new Proxy(device, {
            get: (target, name) => {
              const value: unknown = Reflect.get(target, name);
              if (typeof value !== 'function') return value;
              if (name !== 'read' && name !== 'writeAndSync') return value.bind(target);
              return async (...args: unknown[]) => {
                left -= 1;
                if (left < 0) {
                  isReached = true;
                  token.isPresent = false;
                  throw new UkeyError(name === 'read' ? 'halted' : 'unknown-outcome', 'EIO');
                }
                return await value.apply(target, args);
              };
            },
          });
        },
      },
      token,
    );
    rig = memory;
    await rig.watch.until('blank');
    const stored = ['a', 'b', 'c'];
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    for (const body of stored) await rig.holder.commit(drafts.next([body])).durable;
    await rig.holder.logout();
    let points = 0;
    for (; ; points += 1) {
      const from = rig.watch.seen.length;
      isReached = false;
      left = points;
      const code = await codeOf(rig.holder.login(pinBytes(), false));
      if (!isReached) break;
      left = Number.POSITIVE_INFINITY;
      expect(code).not.toMatch(/^(pin-|internal)/);
      await rig.watch.until('absent', from);
      expect(token.triesLeft).toBe(3);
      stored.push(`after-${points}`);
      expect(await plugAndOpen(from, stored.slice(0, -1), `after-${points}`)).toEqual(stored);
      await rig.holder.logout();
    }
    expect(points).toBeGreaterThan(10);
  });
});

describe('a FLASH of which nothing can be read any more', { timeout: 60_000 }, () => {
  /** Reads and writes until it falls silent. */
  let left = Number.POSITIVE_INFINITY;
  const dying = (device: Device): Device =>
    new Proxy(device, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name);
        if (typeof value !== 'function') return value;
        if (name !== 'read' && name !== 'writeAndSync') return value.bind(target);
        return (...args: unknown[]) => {
          left -= 1;
          if (left >= 0) return value.apply(target, args);
          return Promise.reject(new UkeyError(name === 'read' ? 'halted' : 'unknown-outcome', 'dead', { cause: new Error('EIO') }));
        };
      },
    });
  const stored = ['a', 'b', 'c'];
  async function withLedger(): Promise<DraftMaker> {
    left = Number.POSITIVE_INFINITY;
    const memory: MemoryRig = new MemoryRig({
      pollMs: 10,
      openDevice: async (readOnly) => dying(readOnly ? await memory.flash() : memory.openForWriting()),
    });
    rig = memory;
    await memory.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(memory.holder));
    for (const body of stored) await memory.holder.commit(drafts.next([body])).durable;
    return drafts;
  }
  async function openWhenBack({ watch, holder }: MemoryRig, from: number): Promise<void> {
    left = Number.POSITIVE_INFINITY;
    await watch.until('locked', from);
    const mount = await holder.login(pinBytes(), false);
    expect((await readVerified(holder, mount)).slice(0, stored.length)).toEqual(stored);
  }

  test('since a batch was written is waited for, and opened when it can be read again', async () => {
    const drafts = await withLedger();
    const there = rig as MemoryRig;
    const from = there.watch.seen.length;
    left = 0;
    expect(await codeOf(there.holder.commit(drafts.next(['d'])).durable)).toBe('unknown-outcome');
    expect(await there.watch.until('absent', from)).toMatchObject({
      reason: 'memory cannot be read',
      action: expect.stringContaining('broken'),
    });
    await setTimeout(50);
    expect(there.watch.seen.slice(from).map(({ kind }) => kind)).not.toContain('halted');
    await openWhenBack(there, from);
  });

  test('from any of its reads or writes on while it is opened is waited for, whatever was taken for damage', async () => {
    let points = 0;
    for (; ; points += 1) {
      await withLedger();
      const there = rig as MemoryRig;
      await there.holder.logout();
      const from = there.watch.seen.length;
      left = points;
      await codeOf(there.holder.login(pinBytes(), false));
      const isThrough = left >= 0;
      if (!isThrough) {
        await there.watch.until('absent', from);
        expect(there.watch.seen.slice(from).map(({ kind }) => kind)).not.toContain('halted');
        await openWhenBack(there, from);
      }
      await there.holder.close();
      if (isThrough) break;
    }
    expect(points).toBeGreaterThan(20);
  });
});

describe('a token that is pulled while it works', { timeout: 60_000 }, () => {
  /** More than a sector, however it is compressed. */
  const underWay = randomBytes(2_000).toString('hex');

  async function opened(): Promise<DraftMaker> {
    rig = new MemoryRig();
    await rig.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    await rig.holder.commit(drafts.next(['a'])).durable;
    return drafts;
  }

  test('while it signs: nothing is written, and the next batch stands in its place', async () => {
    const drafts = await opened();
    const { token, holder, watch, device } = rig as MemoryRig;
    const [from, writes] = [watch.seen.length, device?.writes.length];
    token.onSign = () => {
      token.isPresent = false;
    };
    const { sealed, durable } = holder.commit(drafts.peek(['lost']));
    expect(device?.writes.length).toBe(writes);
    expect([await codeOf(sealed), await codeOf(durable)]).toEqual(['no-token', 'no-token']);
    await watch.until('absent', from);
    token.onSign = () => undefined;
    expect(await plugAndOpen(from, ['a'], 'b')).toEqual(['a', 'b']);
  });

  test.each<[string, WriteFault, readonly string[]]>([
    ['before anything is written', { kind: 'not-written' }, ['a', 'next']],
    ['with half of it', { kind: 'torn', keeps: (sector) => sector < 1 }, ['a', 'next']],
    ['with all of it', { kind: 'written' }, ['a', underWay, 'next']],
  ])('while a batch is written, %s: the caller hears that it is not known, and the ledger is whole', async (_when, fault, whole) => {
    const drafts = await opened();
    const { token, holder, watch, device } = rig as MemoryRig;
    const from = watch.seen.length;
    const release = device?.stall();
    device?.failWrite(1, fault);
    const { sealed, durable } = holder.commit(drafts.next([underWay]));
    await sealed;
    token.isPresent = false;
    release?.();
    expect(await codeOf(durable)).toBe('unknown-outcome');
    await watch.until('absent', from);
    expect(await plugAndOpen(from, ['a'], 'next')).toEqual(whole);
  });
});
