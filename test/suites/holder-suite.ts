// Owns: what every Holder must do, whoever runs it. Each rig is one token and one FLASH, blank at first.
// Invariants: a rig's `restart` keeps token and FLASH, as a new service does; `pull` takes both away, as pulling the stick does.
import { generateKeyPairSync } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Holder, Mount } from '#holder/holder.ts';
import { recoveryMethod } from '#holder/mounting.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { openRenewalRequest } from '#ipc-schema/renewal.ts';
import { openEnrolment, recoveryInfoOf } from '#ipc-schema/upstream.ts';
import { makeOpener, rawPublicKey } from '#server/seal.ts';
import type { Device } from '#store/device.ts';
import { openLog, readStoreHeader } from '#store/log.ts';
import {
  certify,
  codeOf,
  codesOf,
  DraftMaker,
  enrol,
  pinBytes,
  provisionHolder,
  readVerified,
  type StateWatch,
  testSoPin,
} from '#test/support/holder-rig.ts';

export interface HolderRig {
  readonly holder: Holder;
  readonly watch: StateWatch;
  /** Closes the holder and starts another on the same token and FLASH. */
  restart(): Promise<void>;
  pull(): void;
  plug(): void;
  /** The FLASH as bytes lie on it, for looking only; the holder must not have it open for writing. */
  flash(): Promise<Device>;
  /** Another token behind the same FLASH, provisioned with the test PIN; the holder is started anew. */
  swapToken(): Promise<void>;
  triesLeft(): number | null;
  /** As if wrong PINs had been tried. */
  leaveTries(tries: number): void;
  remove(): Promise<void>;
}

/** PINs are slow on purpose, and several rigs may share a processor. */
const suiteTimeoutMs = 30_000;

/** `countsTries` false: a module that shows no number of tries. `unblocks` false: one whose SO PIN sets no PIN. */
export function describeHolder(name: string, makeRig: () => Promise<HolderRig>, { countsTries = true, unblocks = true } = {}): void {
  describe(name, { timeout: suiteTimeoutMs }, () => {
    let rig: HolderRig;
    beforeEach(async () => {
      rig = await makeRig();
      await rig.watch.until('blank');
    });
    afterEach(async () => {
      await rig.holder.close();
      await rig.remove();
    });
    const login = (pin = pinBytes(), useLastTry = false): Promise<Mount> => rig.holder.login(pin, useLastTry);

    test('a blank token becomes ours in two steps, and the first may be repeated', async () => {
      const first = openEnrolment(await enrol(rig.holder));
      expect(first.code).toBe('code-1');
      await rig.restart();
      await rig.watch.until('blank');
      const again = openEnrolment(await enrol(rig.holder));
      expect(Buffer.from(again.spki)).toEqual(Buffer.from(first.spki));
      const certificates = await certify(again.spki);
      const mount = await rig.holder.format({ ...certificates, recoveryKey: null, erase: false });
      expect(mount).toMatchObject({ checkpoint: null, checkpointBatch: 1, nextBatch: 1, nextSequence: 1, tornBytes: 0 });
      expect(Buffer.from(mount.certificate)).toEqual(Buffer.from(certificates.certificate));
      expect(rig.holder.state().kind).toBe('open');
      expect(await codeOf(enrol(rig.holder))).toBe('invalid-request');
    });

    test('a certificate of another key is refused and may be followed by the right one', async () => {
      const { spki } = openEnrolment(await enrol(rig.holder));
      const strange = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' });
      const request = { ...(await certify(strange)), recoveryKey: null, erase: false };
      expect(await codeOf(rig.holder.format(request))).toBe('invalid-request');
      await rig.holder.format({ ...(await certify(spki)), recoveryKey: null, erase: false });
    });

    test('formatting needs the first step, and never destroys what is there unasked', async () => {
      const mount = await provisionHolder(rig.holder);
      await rig.holder.commit(new DraftMaker(mount).next(['kept'])).durable;
      const request = { certificate: mount.certificate, authorityCertificate: mount.authorityCertificate, recoveryKey: null, erase: false };
      expect(await codeOf(rig.holder.format(request))).toBe('invalid-request');
      await rig.holder.logout();
      expect(await codeOf(rig.holder.format(request))).toBe('locked');
      expect(await readVerified(rig.holder, await login())).toEqual(['kept']);
    });

    test('batches are durable in order, verify with public keys alone, and are found by the next mount', async () => {
      const first = await provisionHolder(rig.holder);
      const drafts = new DraftMaker(first);
      const commits = [rig.holder.commit(drafts.next(['a', 'b']))];
      await commits[0]?.sealed;
      commits.push(rig.holder.commit(drafts.next(['c'])), rig.holder.commit(drafts.next(['d', 'e', 'f'])));
      const order: number[] = [];
      await Promise.all(commits.map(({ durable }, at) => durable.then(() => order.push(at))));
      expect(order).toEqual([0, 1, 2]);
      expect(await readVerified(rig.holder, first, 1)).toEqual(['a', 'b', 'c', 'd', 'e', 'f']);
      await rig.restart();
      await rig.watch.until('locked');
      const mount = await login();
      expect(mount).toMatchObject({ nextBatch: 4, nextSequence: 7, checkpointBatch: 1 });
      expect(Buffer.from(mount.checkpoint ?? []).toString()).toBe('state before 1');
      await rig.holder.commit(new DraftMaker(mount).next(['g'])).durable;
      await rig.restart();
      await rig.watch.until('locked');
      const last = await login();
      expect(last).toMatchObject({ nextBatch: 5, nextSequence: 8, checkpointBatch: 4 });
      expect(Buffer.from(last.checkpoint ?? []).toString()).toBe('state before 4');
      expect(await readVerified(rig.holder, last)).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'g']);
    });

    test('the KEY of an open ledger asks for the renewal of its certificate, between two batches; a closed one does not', async () => {
      const mount = await provisionHolder(rig.holder);
      const certificateHash = sha256(mount.certificate);
      const drafts = new DraftMaker(mount);
      await rig.holder.commit(drafts.next(['a'])).durable;
      const request = openRenewalRequest(await rig.holder.requestRenewal(certificateHash));
      expect(Buffer.from(request.spki)).toEqual(Buffer.from(mount.publicKey));
      expect(Buffer.from(request.tokenId)).toEqual(Buffer.from(mount.tokenId));
      expect(Buffer.from(request.certificateHash)).toEqual(Buffer.from(certificateHash));
      await rig.holder.commit(drafts.next(['b'])).durable;
      expect(await readVerified(rig.holder, mount)).toHaveLength(2);
      await rig.holder.logout();
      expect(await codeOf(rig.holder.requestRenewal(certificateHash))).toBe('locked');
    });

    test('a login while open is the same mount as it stands now', async () => {
      const mount = await provisionHolder(rig.holder);
      await rig.holder.commit(new DraftMaker(mount).next(['a'])).durable;
      expect(await login()).toMatchObject({ checkpoint: null, checkpointBatch: 1, nextBatch: 2, nextSequence: 2 });
    });

    test('a batch out of its place is refused and moves nothing', async () => {
      const drafts = new DraftMaker(await provisionHolder(rig.holder));
      const draft = drafts.peek(['a']);
      expect(await codesOf(rig.holder.commit({ ...draft, batchIndex: 2 }))).toEqual(['internal', 'internal']);
      expect(await codesOf(rig.holder.commit({ ...draft, firstSequence: 2 }))).toEqual(['internal', 'internal']);
      await rig.holder.commit(draft).durable;
    });

    test('a batch that cannot fit is refused before it is signed', async () => {
      const mount = await provisionHolder(rig.holder);
      const drafts = new DraftMaker(mount);
      expect(await codesOf(rig.holder.commit({ ...drafts.peek(['a']), joinedEntries: new Uint8Array(2 * 1024 * 1024) }))).toEqual([
        'store-full',
        'store-full',
      ]);
      await rig.holder.commit(drafts.next(['a'])).durable;
      expect(await readVerified(rig.holder, mount)).toEqual(['a']);
    });

    test('nothing is committed or read without login, and logout ends it', async () => {
      const drafts = new DraftMaker(await provisionHolder(rig.holder));
      await rig.holder.logout();
      await rig.watch.until('locked');
      expect(await codesOf(rig.holder.commit(drafts.peek(['a'])))).toEqual(['locked', 'locked']);
      expect(await codeOf(rig.holder.read(1, 1))).toBe('locked');
      await login();
      await rig.holder.commit(drafts.next(['a'])).durable;
    });

    test('a wrong PIN is refused, its bytes are overwritten, and the last try is only spent when asked for', async () => {
      await provisionHolder(rig.holder);
      await rig.holder.logout();
      const wrong = pinBytes('11112222');
      expect(await codeOf(login(wrong))).toBe('pin-incorrect');
      expect(wrong.every((byte) => byte === 0)).toBe(true);
      expect(rig.holder.state().kind).toBe('locked');
      if (countsTries) {
        rig.leaveTries(2);
        expect(await codeOf(login(pinBytes('11112222')))).toBe('pin-incorrect');
        expect(rig.triesLeft()).toBe(1);
        expect(await rig.watch.until('locked')).toMatchObject({ facts: { pinState: 'last' } });
        expect(await codeOf(login())).toBe('pin-last-try');
        expect(rig.triesLeft()).toBe(1);
      }
      const right = pinBytes();
      await login(right, true);
      expect(right.every((byte) => byte === 0)).toBe(true);
    });

    test('the PIN is changed while open without closing anything, and while locked; a wrong old one changes nothing', async () => {
      const drafts = new DraftMaker(await provisionHolder(rig.holder));
      const change = { oldPin: pinBytes(), newPin: pinBytes('13572468'), useLastTry: false };
      expect(await rig.holder.changePin(change)).toMatchObject({ loggedIn: true, pinState: 'ok' });
      for (const bytes of [change.oldPin, change.newPin]) expect(bytes.every((byte) => byte === 0)).toBe(true);
      await rig.holder.commit(drafts.next(['a'])).durable;
      expect(await codeOf(rig.holder.changePin({ oldPin: pinBytes(), newPin: pinBytes(), useLastTry: false }))).toBe('pin-incorrect');
      await rig.holder.commit(drafts.next(['b'])).durable;
      await rig.holder.logout();
      expect(await codeOf(login())).toBe('pin-incorrect');
      await rig.holder.changePin({ oldPin: pinBytes('13572468'), newPin: pinBytes(), useLastTry: true });
      expect(rig.holder.state().kind).toBe('locked');
      expect(await readVerified(rig.holder, await login())).toEqual(['a', 'b']);
    });

    test('the last try is not spent by changing the PIN unless asked for', async () => {
      await provisionHolder(rig.holder);
      await rig.holder.logout();
      const change = (useLastTry: boolean) => rig.holder.changePin({ oldPin: pinBytes(), newPin: pinBytes('13572468'), useLastTry });
      if (!countsTries) {
        // Which is the last try is not to be seen.
        expect(await change(false)).toMatchObject({ loggedIn: false, triesLeft: null });
        await login(pinBytes('13572468'));
        return;
      }
      rig.leaveTries(1);
      expect(await codeOf(change(false))).toBe('pin-last-try');
      expect(rig.triesLeft()).toBe(1);
      await change(true);
      expect(rig.triesLeft()).toBeGreaterThan(1);
      await login(pinBytes('13572468'));
    });

    test('the SO PIN gives a new PIN to a token that is locked, never to one that is open', async () => {
      const mount = await provisionHolder(rig.holder);
      await rig.holder.commit(new DraftMaker(mount).next(['a'])).durable;
      const unblock = (soPin: string) => ({ soPin: pinBytes(soPin), newPin: pinBytes('13572468') });
      expect(await codeOf(rig.holder.unblockPin(unblock(testSoPin)))).toBe('invalid-request');
      await rig.holder.commit(new DraftMaker(await login()).next(['b'])).durable;
      await rig.holder.logout();
      if (countsTries) rig.leaveTries(0);
      expect(await codeOf(rig.holder.unblockPin(unblock('11112222')))).toBe(unblocks ? 'pin-incorrect' : 'token-failed');
      const right = unblock(testSoPin);
      if (!unblocks) {
        expect(await codeOf(rig.holder.unblockPin(right))).toBe('token-failed');
        expect(rig.holder.state()).toMatchObject({ kind: 'locked', facts: { pinState: 'ok' } });
        expect(await readVerified(rig.holder, await login())).toEqual(['a', 'b']);
        return;
      }
      expect(await rig.holder.unblockPin(right)).toMatchObject({ loggedIn: false, pinState: 'ok' });
      for (const bytes of [right.soPin, right.newPin]) expect(bytes.every((byte) => byte === 0)).toBe(true);
      expect(rig.holder.state()).toMatchObject({ kind: 'locked', facts: { pinState: 'ok' } });
      expect(await readVerified(rig.holder, await login(pinBytes('13572468')))).toEqual(['a', 'b']);
    });

    test('a pulled token is noticed within seconds, commits say so, and it waits for its PIN when it is back', async () => {
      const drafts = new DraftMaker(await provisionHolder(rig.holder));
      await rig.holder.commit(drafts.next(['a'])).durable;
      const before = rig.watch.seen.length;
      rig.pull();
      await rig.watch.until('absent', before, 3_000);
      expect(await codesOf(rig.holder.commit(drafts.peek(['b'])))).toEqual(['no-token', 'no-token']);
      expect(await codeOf(login())).toBe('no-token');
      rig.plug();
      await rig.watch.until('locked', before, 3_000);
      expect(await codesOf(rig.holder.commit(drafts.peek(['b'])))).toEqual(['locked', 'locked']);
      const mount = await login();
      await rig.holder.commit(drafts.next(['b'])).durable;
      expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
    });

    test("another token's FLASH is refused: no try is spent, nothing is written", async () => {
      const mount = await provisionHolder(rig.holder);
      await rig.holder.commit(new DraftMaker(mount).next(['a'])).durable;
      await rig.holder.close();
      const before = await contentOf(await rig.flash());
      await rig.swapToken();
      await expectHalted(rig);
      const tries = rig.triesLeft();
      expect(await codeOf(login())).toBe('halted');
      expect(await codeOf(login(pinBytes('11112222')))).toBe('halted');
      expect(rig.triesLeft()).toBe(tries);
      expect(await codesOf(rig.holder.commit(new DraftMaker(mount).next(['b'])))).toEqual(['halted', 'halted']);
      await rig.holder.close();
      expect((await contentOf(await rig.flash())).equals(before)).toBe(true);
    });

    test('the recovery slot opens the store without the KEY', async () => {
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const mount = await provisionHolder(rig.holder, rawPublicKey(publicKey));
      await rig.holder.commit(new DraftMaker(mount).next(['saved'])).durable;
      await rig.holder.close();
      const device = await rig.flash();
      const slot = (await readStoreHeader(device))?.slots.find(({ method }) => method === recoveryMethod);
      const dataKey = await (await makeOpener(privateKey))(slot?.blob ?? new Uint8Array(), recoveryInfoOf(mount.tokenId));
      const log = await openLog(device, dataKey);
      expect(log.mounted.nextIndex).toBe(2);
      await log.close();
    });

    test('status counts signatures and room', async () => {
      const mount = await provisionHolder(rig.holder);
      const before = await rig.holder.status();
      await rig.holder.commit(new DraftMaker(mount).next(['a'])).durable;
      await expect.poll(async () => (await rig.holder.status()).signatures).toBe(before.signatures + 1);
      const after = await rig.holder.status();
      expect(after.meanSignMs).not.toBeNull();
      expect(after.usedBytes).toBeGreaterThan(before.usedBytes);
      expect(after.sizeBytes).toBeGreaterThan(after.usedBytes);
    });
  });
}

/** A module that shows its public key only after login cannot know better before it. */
async function expectHalted(rig: HolderRig): Promise<void> {
  await rig.watch.until('halted');
}

async function contentOf(device: Device): Promise<Buffer> {
  const content = Buffer.from(await device.read(0, device.sizeBytes));
  await device.close();
  return content;
}
