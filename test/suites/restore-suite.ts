// Owns: what restoring must do, whoever runs the holder: for the same KEY, and for another one that an authority lets go on.
// Invariants: authority and recovery key are the test's own; what a server would do is done here with the server's parts.
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Holder, Mount, RestoreOptions, SuccessionGrant } from '#holder/holder.ts';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { keyIdOf, makeSign1, publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { type KeyRequest, openKeyRequest, openSuccessionRequest, type SuccessionRequest } from '#ipc-schema/recovery.ts';
import { firstSigner } from '#ipc-schema/signers.ts';
import type { Succession } from '#ipc-schema/succession.ts';
import { succeedBy } from '#ipc-schema/succession.ts';
import { openEnrolment, recoveryInfoOf, recoveryReplyInfo } from '#ipc-schema/upstream.ts';
import { chainStart, verifyNext } from '#ipc-schema/verify.ts';
import { makeAuthorityCertificate, makeTokenCertificate } from '#server/certificate.ts';
import { makeOpener, rawPublicKey, sealTo } from '#server/seal.ts';
import { codeOf, codesOf, DraftMaker, enrol, pinBytes, type StateWatch, testSoPin } from '#test/support/holder-rig.ts';

export interface RestoreRig {
  readonly holder: Holder;
  readonly watch: StateWatch;
  /** Closes the holder and starts another on the same token and FLASH. */
  restart(): Promise<void>;
  /** The FLASH as it is now, under a name to restore from; the holder is closed meanwhile. */
  copyOut(): Promise<string>;
  /** Its FLASH is gone: another holder on the KEY and a blank FLASH. */
  loseFlash(): Promise<void>;
  /** KEY and FLASH are gone: another holder on a blank token. */
  loseToken(): Promise<void>;
  remove(): Promise<void>;
}

const validity = { fromMs: Date.parse('2020-01-01T00:00:00Z'), untilMs: Date.parse('2040-01-01T00:00:00Z') };
const suiteTimeoutMs = 60_000;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

export class TestAuthority {
  readonly recovery = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  readonly publicKey: KeyObject;
  readonly certificate: Uint8Array;
  readonly #privateKey: KeyObject;

  private constructor(pair: { readonly publicKey: KeyObject; readonly privateKey: KeyObject }, certificate: Uint8Array) {
    this.publicKey = pair.publicKey;
    this.#privateKey = pair.privateKey;
    this.certificate = certificate;
  }

  static async make(): Promise<TestAuthority> {
    const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    return new TestAuthority(pair, await makeAuthorityCertificate(pair.privateKey, pair.publicKey, validity));
  }

  async certify(spki: Uint8Array, tokenId = keyIdOf(publicKeyFromSpki(spki))): Promise<Uint8Array> {
    const issuer = { privateKey: this.#privateKey, certificate: this.certificate };
    return await makeTokenCertificate(issuer, spki, hex(tokenId), validity);
  }

  async provision(holder: Holder): Promise<Mount> {
    const { spki } = openEnrolment(await enrol(holder));
    const recoveryKey = rawPublicKey(this.recovery.publicKey);
    return await holder.format({
      certificate: await this.certify(spki),
      authorityCertificate: this.certificate,
      recoveryKey,
      erase: false,
    });
  }

  async dataKey({ slot, tokenId }: KeyRequest): Promise<Buffer> {
    return Buffer.from(await makeOpener(this.recovery.privateKey)(slot, recoveryInfoOf(tokenId)));
  }

  async sealedDataKey(request: KeyRequest): Promise<Uint8Array> {
    return await sealTo(request.replyKey, recoveryReplyInfo, await this.dataKey(request));
  }

  async grant(
    { spki, tokenId, fromBatch, previousSealHash }: SuccessionRequest,
    change: Partial<Succession> = {},
  ): Promise<SuccessionGrant> {
    const content: Succession = {
      format: 'ukey-succession/1',
      ...{ tokenId: hex(tokenId), serial: 1, fromBatch, previousSealHash: hex(previousSealHash) },
      certificate: Buffer.from(await this.certify(spki, tokenId)).toString('base64'),
      ...{ reason: 'token-lost' as const, issuedAt: '2030-01-01T00:00:00Z' },
      ...change,
    };
    const message = Buffer.from(JSON.stringify(content), 'utf8');
    const key = { key: this.#privateKey, dsaEncoding: 'ieee-p1363' as const };
    const succession = makeSign1('ES256', keyIdOf(this.publicKey), message, (bytes) => sign('sha256', bytes, key));
    return { authorityCertificate: this.certificate, succession };
  }
}

/** The bodies of the whole ledger, walked from its first key under the authority. */
async function walk(holder: Holder, mount: Mount, authority: TestAuthority): Promise<string[]> {
  const bodies: string[] = [];
  let head = chainStart(mount.signers[0].certificate);
  let signers = firstSigner(mount.signers[0].certificate);
  for (;;) {
    const batches = await holder.read(head.batchIndex + 1, 64 * 1024);
    if (batches.length === 0) return bodies;
    for (const { bytes } of batches) {
      const next = verifyNext(bytes, signers, head, succeedBy(authority.publicKey));
      ({ signers } = next);
      ({ head } = next.batch);
      bodies.push(...next.batch.entries.map(({ body }) => Buffer.from(body).toString('utf8')));
    }
  }
}

export function describeRestore(name: string, makeRig: () => Promise<RestoreRig>): void {
  describe(`${name}: restoring`, { timeout: suiteTimeoutMs }, () => {
    let rig: RestoreRig;
    let authority: TestAuthority;
    let mount: Mount;
    beforeEach(async () => {
      rig = await makeRig();
      authority = await TestAuthority.make();
      await rig.watch.until('blank');
      mount = await authority.provision(rig.holder);
      const drafts = new DraftMaker(mount);
      for (const body of ['a', 'b', 'c']) await rig.holder.commit(drafts.next([body])).durable;
    });
    afterEach(async () => {
      await rig.holder.close();
      await rig.remove();
    });
    const options = (from: string, change: Partial<RestoreOptions> = {}): RestoreOptions => ({
      ...{ from, label: null, ticket: null, erase: false, ...change },
      pin: pinBytes(),
      soPin: change.label === undefined ? null : pinBytes(testSoPin),
    });
    const blank = { label: 'next' };
    const ticket = () => ({ code: 'code-1', tokenId: mount.tokenId });

    test('the same KEY writes its lost FLASH anew and goes on', async () => {
      const from = await rig.copyOut();
      await rig.loseFlash();
      const given = options(from);
      expect(await rig.holder.beginRestore(given)).toEqual({ kind: 'own' });
      expect(given.pin.every((byte) => byte === 0)).toBe(true);
      const restored = await rig.holder.finishRestore(null);
      expect(restored.signers).toHaveLength(1);
      await rig.holder.commit(new DraftMaker(restored).next(['d'])).durable;
      expect(await walk(rig.holder, restored, authority)).toEqual(['a', 'b', 'c', 'd']);
    });

    test('a FLASH that is formatted is not written over unasked, and steps out of order are refused', async () => {
      const from = await rig.copyOut();
      await rig.restart();
      await rig.watch.until('locked');
      expect(await codeOf(rig.holder.finishRestore(null))).toBe('invalid-request');
      expect(await codeOf(rig.holder.beginRestore(options(from)))).toBe('invalid-request');
      await rig.holder.beginRestore(options(from, { erase: true }));
      expect(await codeOf(rig.holder.unlockRestore(new Uint8Array(120)))).toBe('invalid-request');
      expect(await walk(rig.holder, await rig.holder.finishRestore(null), authority)).toEqual(['a', 'b', 'c']);
    });

    test('another KEY goes on with the ledger, and every step may be repeated', async () => {
      const from = await rig.copyOut();
      await rig.loseToken();
      expect(await codeOf(rig.holder.beginRestore(options(from, { ...blank })))).toBe('invalid-request');
      expect(await codeOf(rig.holder.beginRestore(options(from, { ticket: ticket() })))).toBe('invalid-request');
      const first = await rig.holder.beginRestore(options(from, { ...blank, ticket: ticket() }));
      const begun = await rig.holder.beginRestore(options(from, { ticket: ticket() }));
      if (first.kind === 'own' || begun.kind === 'own') throw new Error('another KEY is not the same');
      const request = openKeyRequest(begun.request);
      // An answer that took a person's time can still be opened.
      expect(hex(openKeyRequest(first.request).replyKey)).toBe(hex(request.replyKey));
      expect(hex(request.slot).length).toBeGreaterThan(100);
      const wanted = openSuccessionRequest(await rig.holder.unlockRestore(await authority.sealedDataKey(request)));
      expect(wanted).toMatchObject({ fromBatch: 4 });
      for (const change of [{ fromBatch: 5 }, { previousSealHash: '00'.repeat(32) }, { tokenId: '00'.repeat(16) }]) {
        expect(await codeOf(rig.holder.finishRestore(await authority.grant(wanted, change))), JSON.stringify(change)).toBe(
          'invalid-request',
        );
        await rig.holder.unlockRestore(await authority.sealedDataKey(request));
      }
      const stranger = await TestAuthority.make();
      expect(await codeOf(rig.holder.finishRestore(await stranger.grant(wanted)))).toBe('invalid-request');
      await rig.holder.unlockRestore(await authority.sealedDataKey(request));
      const grant = await authority.grant(wanted);
      const restored = await rig.holder.finishRestore(grant);
      expect(hex(restored.tokenId)).toBe(hex(mount.tokenId));
      expect(restored.signers.map(({ fromBatch }) => fromBatch)).toEqual([1, 4]);
      const event = encodeAdminEvent({ event: 'succession', succession: Buffer.from(grant.succession).toString('base64') });
      const text = Buffer.from(event).toString('utf8');
      const drafts = new DraftMaker(restored);
      await rig.holder.commit(drafts.next([text, 'd'])).durable;
      await rig.restart();
      await rig.watch.until('locked');
      const again = await rig.holder.login(pinBytes(), false);
      await rig.holder.commit(new DraftMaker(again).next(['e'])).durable;
      expect(await walk(rig.holder, again, authority)).toEqual(['a', 'b', 'c', text, 'd', 'e']);
      // Its own FLASH is lost now: the dead KEY's copy lacks what this one has sealed since.
      await rig.loseFlash();
      const late = await rig.holder.beginRestore(options(from, { ticket: ticket() }));
      if (late.kind === 'own') throw new Error('another KEY is not the same');
      expect(await codeOf(rig.holder.unlockRestore(await authority.sealedDataKey(openKeyRequest(late.request))))).toBe('halted');
      expect(await codeOf(rig.holder.finishRestore(grant))).toBe('invalid-request');
    });

    test('a data key of another store, and a copy of another ledger than the ticket, are refused', async () => {
      const from = await rig.copyOut();
      await rig.loseToken();
      const other = { code: 'code-1', tokenId: new Uint8Array(16) };
      const begun = await rig.holder.beginRestore(options(from, { ...blank, ticket: other }));
      if (begun.kind === 'own') throw new Error('another KEY is not the same');
      const { replyKey } = openKeyRequest(begun.request);
      const wrong = await sealTo(replyKey, recoveryReplyInfo, new Uint8Array(32));
      expect(await codeOf(rig.holder.unlockRestore(wrong))).toBe('halted');
      expect(await codeOf(rig.holder.unlockRestore(await sealTo(replyKey, 'another use', new Uint8Array(32))))).toBe('invalid-request');
      const right = await authority.sealedDataKey({ ...openKeyRequest(begun.request), tokenId: mount.tokenId });
      expect(await codeOf(rig.holder.unlockRestore(right))).toBe('invalid-request');
      expect(
        await codeOf(
          rig.holder.finishRestore(
            await authority.grant({
              spki: new Uint8Array(mount.publicKey),
              code: 'x',
              tokenId: mount.tokenId,
              fromBatch: 4,
              previousSealHash: new Uint8Array(32),
              afterSerial: 0,
              reason: 'token-lost',
            }),
          ),
        ),
      ).toBe('invalid-request');
      expect(await codesOf(rig.holder.commit(new DraftMaker(mount).next(['x'])))).not.toContain('not refused');
    });
  });
}
