// Shows: the holder in one process: the suite on two rigs, and what only a fake token and a FLASH in memory can show:
// failing signatures and writes, overlap of signing and syncing, forged frames, readers, presence.
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import type { Mount } from '#holder/holder.ts';
import { partsOf } from '#holder/parts.ts';
import { encodeBatch, sealPayload } from '#ipc-schema/batch.ts';
import { makeSign1 } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { openLog, readStoreHeader } from '#store/log.ts';
import { describeHolder } from '#test/suites/holder-suite.ts';
import { FakeToken } from '#test/support/fake-token.ts';
import { codeOf, codesOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import type { WriteFault } from '#test/support/memory-device.ts';
import { joinedFileRig, MemoryRig } from './rigs.ts';

interface Rigged {
  readonly rig: MemoryRig;
  readonly mount: Mount;
  readonly drafts: DraftMaker;
}

/** A provisioned, open holder in memory for each test; closed after it. */
function useMemoryRig(): () => Promise<Rigged> {
  let rig: MemoryRig | null = null;
  afterEach(async () => {
    await rig?.holder.close();
    rig = null;
  });
  return async () => {
    rig = new MemoryRig();
    await rig.watch.until('blank');
    const mount = await provisionHolder(rig.holder);
    return { rig, mount, drafts: new DraftMaker(mount) };
  };
}

describeHolder('a holder in this process, fake token, FLASH in memory', async () => new MemoryRig());
describeHolder('a holder in this process, soft token, image', async () => joinedFileRig());

describe('a signature that fails', () => {
  const rigged = useMemoryRig();

  test.each(['token-failed', 'internal'] as const)(
    'with %s rejects its batch and those numbered behind it; nothing is written, nothing moves',
    async (fault) => {
      const { rig, drafts, mount } = await rigged();
      await rig.holder.commit(drafts.next(['a'])).durable;
      const writes = rig.device?.writes.length;
      rig.token.signFaults.push(fault);
      const draft = drafts.peek(['lost']);
      const refused = rig.holder.commit(draft);
      const behind = rig.holder.commit({ ...draft, batchIndex: draft.batchIndex + 1, firstSequence: draft.firstSequence + 1 });
      expect(await codesOf(refused)).toEqual(['token-failed', 'token-failed']);
      expect(await codesOf(behind)).toEqual(['token-failed', 'token-failed']);
      expect(rig.device?.writes.length).toBe(writes);
      await rig.holder.commit(drafts.next(['b'])).durable;
      expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
    },
  );

  test('because the token is gone makes the holder absent, at once', async () => {
    const { rig, drafts } = await rigged();
    await rig.holder.commit(drafts.next(['a'])).durable;
    rig.pull();
    expect(await codesOf(rig.holder.commit(drafts.peek(['b'])))).toEqual(['no-token', 'no-token']);
    await rig.watch.until('absent');
    await expect.poll(() => rig.device?.isClosed).toBe(true);
  });

  test('because the token forgot its login makes the holder locked', async () => {
    const { rig, drafts, mount } = await rigged();
    rig.token.isLoggedIn = false;
    expect(await codesOf(rig.holder.commit(drafts.peek(['a'])))).toEqual(['locked', 'locked']);
    await rig.watch.until('locked');
    await expect.poll(() => rig.device?.isClosed).toBe(true);
    await rig.holder.login(pinBytes(), false);
    await rig.holder.commit(drafts.next(['a'])).durable;
    expect(await readVerified(rig.holder, mount)).toEqual(['a']);
  });
});

describe('a write that fails', () => {
  /** Several sectors, also when compressed. */
  const long = randomBytes(2_000).toString('hex');
  const rigged = useMemoryRig();

  test('after a long wait, in which more callers ask for the token than may wait, is recovered from all the same', async () => {
    const { rig, drafts } = await rigged();
    const release = rig.device?.stall();
    rig.device?.failWrite(1, { kind: 'not-written' });
    const failed = codeOf(rig.holder.commit(drafts.peek(['a'])).durable);
    await setTimeout(10);
    const from = rig.watch.seen.length;
    const logins = Array.from({ length: 40 }, () => codeOf(rig.holder.login(pinBytes(), false)));
    await setTimeout(10);
    release?.();
    expect(await failed).toBe('unknown-outcome');
    expect(new Set(await Promise.all(logins))).toEqual(new Set(['not refused', 'busy']));
    await rig.watch.until('open', from);
    const mount = await rig.holder.login(pinBytes(), false);
    await rig.holder.commit(new DraftMaker(mount).next(['b'])).durable;
    expect(await readVerified(rig.holder, mount)).toEqual(['b']);
  });

  test.each([
    { fault: { kind: 'not-written' }, stored: ['a'] },
    { fault: { kind: 'written' }, stored: ['a', long] },
    { fault: { kind: 'torn', keeps: (sector) => sector === 0 }, stored: ['a'] },
  ] satisfies { fault: WriteFault; stored: string[] }[])(
    'as $fault.kind is of unknown outcome with all behind it; the log is opened again without a PIN, and that mount knows',
    async ({ fault, stored }) => {
      const { rig, drafts } = await rigged();
      await rig.holder.commit(drafts.next(['a'])).durable;
      const from = rig.watch.seen.length;
      rig.device?.failWrite(1, fault);
      const failed = [rig.holder.commit(drafts.next([long])), rig.holder.commit(drafts.next(['c']))];
      for (const { sealed, durable } of failed) {
        await sealed;
        expect(await codeOf(durable)).toBe('unknown-outcome');
      }
      expect(await codesOf(rig.holder.commit(drafts.peek(['d'])))).toEqual(['token-failed', 'token-failed']);
      await rig.watch.until('open', from);
      expect(rig.watch.seen.slice(from).map(({ kind }) => kind)).toEqual(['starting', 'open']);
      const mount = await rig.holder.login(pinBytes(), false); // open already: answers the mount, tries nothing
      expect(await readVerified(rig.holder, mount)).toEqual(stored);
      await rig.holder.commit(new DraftMaker(mount).next(['e'])).durable;
      expect(await readVerified(rig.holder, mount)).toEqual([...stored, 'e']);
    },
  );
});

describe('speed', () => {
  const rigged = useMemoryRig();

  test('signing the next batch overlaps the sync of the last', async () => {
    const { rig, drafts } = await rigged();
    const batches = 15;
    const eachMs = 40; // much beside what a busy machine adds to each
    rig.token.signMs = eachMs;
    rig.writeMs = eachMs;
    const startMs = performance.now();
    const commits = [];
    for (let made = 0; made < batches; made += 1) {
      const commit = rig.holder.commit(drafts.next([`${made}`]));
      commits.push(commit.durable);
      await commit.sealed;
      await setImmediate(); // the next batch comes as a message: one turn of the loop
    }
    await Promise.all(commits);
    const tookMs = performance.now() - startMs;
    const serialMs = 2 * eachMs * batches;
    console.log(
      `overlap: ${batches} batches of ${eachMs} ms signature + ${eachMs} ms sync took ${tookMs.toFixed(0)} ms; one after the other ${serialMs} ms`,
    );
    expect(tookMs).toBeLessThan(serialMs * 0.8);
  });

  test('looking for the token asks nothing of it while signatures prove it', async () => {
    const { rig, drafts } = await rigged();
    await rig.holder.commit(drafts.next(['a'])).durable;
    let asked = 0;
    const { token } = rig;
    const facts = token.facts.bind(token);
    token.facts = () => {
      asked += 1;
      return facts();
    };
    const endMs = performance.now() + 200;
    while (performance.now() < endMs) {
      await rig.holder.commit(drafts.next(['b'])).durable;
      await setImmediate();
    }
    expect(asked).toBeLessThanOrEqual(1);
    await expect.poll(() => asked).toBeGreaterThan(2);
  });
});

describe('mounting', () => {
  const rigged = useMemoryRig();

  /** A frame in the log that the holder did not make. */
  async function appendForeign(rig: MemoryRig, payload: (drafts: DraftMaker) => Uint8Array, drafts: DraftMaker): Promise<void> {
    await rig.holder.commit(drafts.next(['a'])).durable;
    await rig.holder.logout();
    rig.token.login(pinBytes());
    const header = await readStoreHeader(await rig.flash());
    const [slot] = header?.slots ?? [];
    const dataKey = rig.token.unwrapDataKey({ method: 'aes-kw', blob: slot?.blob ?? new Uint8Array() });
    rig.token.logout();
    const log = await openLog(rig.openForWriting(), dataKey);
    await log.append(payload(drafts), new Uint8Array());
    await log.close();
  }

  test('halts at a frame that holds no batch', async () => {
    const { rig, drafts } = await rigged();
    await appendForeign(rig, () => Buffer.from('no batch'), drafts);
    expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
    expect(rig.holder.state().kind).toBe('halted');
    expect(rig.token.isLoggedIn).toBe(false);
  });

  test('halts at a batch that another key sealed', async () => {
    const { rig, drafts, mount } = await rigged();
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const forge = (maker: DraftMaker): Uint8Array => {
      const draft = maker.peek(['forged']);
      const payload = sealPayload({ ...draft, tokenId: mount.tokenId, previousSealHash: new Uint8Array(32) });
      const seal = makeSign1('ES256', mount.tokenId, payload, (message) =>
        sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' }),
      );
      return encodeBatch(seal, draft.joinedEntries);
    };
    await appendForeign(rig, forge, drafts);
    expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
  });

  test('a reader beside the running holder logs in, reads all that is durable, and writes nothing', async () => {
    const { rig, drafts, mount } = await rigged();
    await rig.holder.commit(drafts.next(['a', 'b'])).durable;
    const reader = new MemoryRig({ readOnly: true, openToken: () => rig.token, openDevice: () => rig.flash() });
    await reader.watch.until('locked');
    const seen = await reader.holder.login(pinBytes(), false);
    expect(await readVerified(reader.holder, seen)).toEqual(['a', 'b']);
    expect(await codesOf(reader.holder.commit(drafts.peek(['c'])))).toEqual(['internal', 'internal']);
    expect(reader.device).toBeNull();
    expect(mount.tokenId).toEqual(seen.tokenId);
    await reader.holder.close();
  });
});

describe('presence', () => {
  const rigged = useMemoryRig();

  test('a module that fails because its token was pulled does not hide that it was', async () => {
    let isBroken = false;
    const rig = new MemoryRig({
      openToken: () => {
        if (isBroken) throw new UkeyError('token-failed', 'C_Initialize: CKR_GENERAL_ERROR');
        rig.token.facts();
        return rig.token;
      },
    });
    await rig.watch.until('blank');
    await provisionHolder(rig.holder);
    const from = rig.watch.seen.length;
    isBroken = true;
    rig.pull();
    await rig.watch.until('absent', from);
    const said = rig.holder.state();
    await setTimeout(100);
    expect(rig.holder.state()).toEqual(said);
    expect(said).not.toMatchObject({ reason: expect.stringContaining('CKR') });
    await rig.holder.close();
  });

  test('a module that is not installed says what to do', async () => {
    const rig = new MemoryRig(partsOf({ module: '/nowhere/module.so', flashPath: '/nowhere/flash', presencePaths: [] }));
    await rig.watch.until('absent');
    expect(rig.holder.state()).toMatchObject({ action: expect.stringContaining('token.module') });
    await rig.holder.close();
  });

  test('another token in its place is another ledger', async () => {
    const { rig } = await rigged();
    const from = rig.watch.seen.length;
    const other = new FakeToken();
    other.provision({ pin: pinBytes() });
    rig.token.isPresent = false;
    rig.token = other;
    await rig.watch.until('halted', from);
    expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
    expect(other.logins).toBe(0);
  });

  test('one unclear answer of the module is no reason to lock up, two are', async () => {
    const { rig, drafts } = await rigged();
    const { token } = rig;
    const facts = token.facts.bind(token);
    let unclear = 1;
    token.facts = () => {
      if (unclear > 0) {
        unclear -= 1;
        throw new UkeyError('token-failed', 'CKR_GENERAL_ERROR');
      }
      return facts();
    };
    await expect.poll(() => unclear).toBe(0);
    await setTimeout(60);
    await rig.holder.commit(drafts.next(['a'])).durable;
    const from = rig.watch.seen.length;
    unclear = 2;
    await rig.watch.until('locked', from);
    expect(rig.watch.seen.slice(from).map(({ kind }) => kind)).toContain('absent');
  });
});
