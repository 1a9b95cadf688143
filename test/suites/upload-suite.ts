// Owns: what uploads to a whole server must be, over each database: exactly once by token and batch index; acknowledged only what is durable; refused with a reason and stored nowhere otherwise.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decodeBatch, encodeBatch, joinEntries } from '#ipc-schema/batch.ts';
import { decodeLeaf, encodeEntry, encodeLeaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import {
  decodeUpload,
  encodeUpload,
  mediaTypes,
  nonceBytes,
  openAlarm,
  paths,
  recoveryInfoOf,
  tokenViewSchema,
  uploadMaxBytes,
} from '#ipc-schema/upstream.ts';
import { verifyBatch, verifyEvidence } from '#ipc-schema/verify.ts';
import type { Database } from '#server/database.ts';
import { rawPublicKey } from '#server/seal.ts';
import { type BuiltDraft, BuiltToken } from '#test/support/batch-builder.ts';
import { pack, sealTo } from '#test/support/sealed-upload.ts';
import { type EnrolledToken, refusalIn, type ServerRig } from '#test/support/server-rig.ts';

export interface UploadPlace {
  start(): Promise<ServerRig>;
  /** The same database once more. */
  openDatabase(rig: ServerRig): Promise<Database>;
}

export function uploadSuite(place: UploadPlace): void {
  let rig: ServerRig;

  beforeAll(async () => {
    rig = await place.start();
  });
  afterAll(async () => await rig.stop());

  async function view(enrolled: EnrolledToken) {
    const reply = await rig.client.ask(`${paths.tokens}/${enrolled.token.tokenId}`);
    return tokenViewSchema.parse(JSON.parse(reply.body.toString('utf8')));
  }

  describe('a good upload', () => {
    test.each(['ES256', 'RS256'] as const)('of a token that signs with %s is stored and acknowledged', async (algorithm) => {
      const enrolled = await rig.enrol(new BuiltToken(algorithm));
      const { token } = enrolled;
      const batches = [token.batch(3), token.batch(1), token.batch(64)];
      const ack = await rig.acknowledged(enrolled, batches);
      expect(ack.upToBatch).toBe(3);
      expect(Buffer.from(ack.headSealHash)).toEqual(Buffer.from(token.head.sealHash));
      expect(Buffer.from(ack.tokenId)).toEqual(Buffer.from(token.tokenIdBytes));
      expect(ack.parked).toEqual([]);
      expect(await view(enrolled)).toMatchObject({ upToBatch: 3, lastSequence: 68, invoices: 68, alarm: null });
    });

    test('holds entries of every kind; only documents count as invoices', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const kinds = ['charter', 'template', 'acknowledgement', 'admin', 'void', 'report', 'file'] as const;
      const ack = await rig.acknowledged(enrolled, [
        token.batch([
          ...kinds.map((entryKind) => ({ kind: 'body' as const, entryKind, body: Buffer.from(`a ${entryKind}`) })),
          { kind: 'document' },
        ]),
      ]);
      expect(ack.parked).toEqual([]);
      expect(await view(enrolled)).toMatchObject({ lastSequence: 8, invoices: 1 });
    });

    test('sent again, or overlapping what is stored, is answered with the current acknowledgement and stored once', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const batches = [token.batch(2), token.batch(2), token.batch(2), token.batch(2)];
      expect((await rig.acknowledged(enrolled, batches.slice(0, 2))).upToBatch).toBe(2);
      expect((await rig.acknowledged(enrolled, batches.slice(0, 2))).upToBatch).toBe(2);
      expect((await rig.acknowledged(enrolled, batches.slice(1))).upToBatch).toBe(4);
      expect((await rig.acknowledged(enrolled, batches.slice(0, 1))).upToBatch).toBe(4);
      expect(await view(enrolled)).toMatchObject({ upToBatch: 4, invoices: 8, alarm: null });
    });

    test('sent eight times at once is stored once', async () => {
      const enrolled = await rig.enrol();
      const batches = [enrolled.token.batch(30), enrolled.token.batch(30)];
      const acks = await Promise.all(Array.from({ length: 8 }, async () => await rig.acknowledged(enrolled, batches)));
      expect(acks.map((ack) => ack.upToBatch)).toEqual(Array(8).fill(2));
      expect(await view(enrolled)).toMatchObject({ invoices: 60 });
    });

    test('is there after a restart, and its chain goes on', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const first = token.batch(5);
      await rig.acknowledged(enrolled, [first]);
      await rig.restart();
      expect((await rig.acknowledged(enrolled, [first])).upToBatch).toBe(1);
      expect((await rig.acknowledged(enrolled, [token.batch(5)])).upToBatch).toBe(2);
    });
  });

  describe('an answer that was lost', () => {
    test('after the commit is given to the repeat', async () => {
      let failures = 0;
      const other = await place.start();
      const enrolled = await other.enrol();
      const database = await place.openDatabase(other);
      const store = database.store.bind(database);
      database.store = async (...request) => {
        const stored = await store(...request);
        if (failures++ === 0) throw new UkeyError('internal', 'the power went away after the commit');
        return stored;
      };
      await other.restart({ database });
      try {
        const batches = [enrolled.token.batch(10), enrolled.token.batch(10)];
        expect(refusalIn(await other.send(enrolled, batches))).toMatchObject({ status: 500, code: 'internal' });
        expect((await other.acknowledged(enrolled, batches)).upToBatch).toBe(2);
        expect((await other.entries(enrolled.token.tokenId, 'from=1')).map((entry) => entry.sequence)).toEqual(
          Array.from({ length: 20 }, (_, at) => at + 1),
        );
      } finally {
        await other.stop();
      }
    });

    test('before the commit leaves nothing, and the repeat is stored', async () => {
      const other = await place.start();
      const enrolled = await other.enrol();
      const database = await place.openDatabase(other);
      const store = database.store.bind(database);
      let failures = 0;
      database.store = async (...request) => {
        if (failures++ === 0) throw new UkeyError('internal', 'the power went away before the commit');
        return await store(...request);
      };
      await other.restart({ database });
      try {
        const batches = [enrolled.token.batch(10)];
        expect(refusalIn(await other.send(enrolled, batches)).code).toBe('internal');
        expect(await other.entries(enrolled.token.tokenId, 'from=1')).toEqual([]);
        expect((await other.acknowledged(enrolled, batches)).upToBatch).toBe(1);
      } finally {
        await other.stop();
      }
    });
  });

  describe('an upload out of place', () => {
    test('that leaves a gap says which batch is wanted', async () => {
      const enrolled = await rig.enrol();
      const batches = [enrolled.token.batch(1), enrolled.token.batch(1), enrolled.token.batch(1)];
      expect(refusalIn(await rig.send(enrolled, batches.slice(1)))).toMatchObject({ status: 409, code: 'gap', wantBatch: 1 });
      await rig.acknowledged(enrolled, batches.slice(0, 1));
      expect(refusalIn(await rig.send(enrolled, batches.slice(2)))).toMatchObject({ status: 409, code: 'gap', wantBatch: 2 });
      expect((await rig.acknowledged(enrolled, batches)).upToBatch).toBe(3);
    });

    test('whose batches are not consecutive is refused whole', async () => {
      const enrolled = await rig.enrol();
      const [one, two, three] = [enrolled.token.batch(1), enrolled.token.batch(1), enrolled.token.batch(1)];
      for (const order of [
        [one, three, two],
        [one, one, two],
        [one, three],
      ])
        expect(refusalIn(await rig.send(enrolled, order))).toMatchObject({ status: 400, code: 'bad-request' });
      expect(await view(enrolled)).toMatchObject({ upToBatch: 0, alarm: null });
    });

    test('of a clone is a fork: refused, alarmed, and the stored batch stays as it is', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const rival = token.batch(2, {}, true);
      const batches = [token.batch(2), token.batch(2)];
      await rig.acknowledged(enrolled, batches);
      expect(refusalIn(await rig.send(enrolled, [rival]))).toMatchObject({ status: 409, code: 'fork', wantBatch: 3 });
      const { alarm, upToBatch } = await view(enrolled);
      expect(alarm).toMatchObject({ kind: 'fork', batchIndex: 1 });
      expect((await rig.client.ask('/')).body.toString('utf8')).toContain(alarm?.raisedAt ?? '?');
      expect(upToBatch).toBe(2);
      const kept = await rig.client.ask(`${paths.tokens}/${token.tokenId}/batches?from=1&limit=1`);
      expect(Buffer.from(decodeUpload(kept.body).batches[0] ?? [])).toEqual(Buffer.from(batches[0]?.bytes ?? []));
      expect((await rig.acknowledged(enrolled, [token.batch(1)])).upToBatch).toBe(3);
    });

    test('of a clone is told to the token, signed over its nonce, with the seal that proves it', async () => {
      const enrolled = await rig.enrol();
      const { token, ackKey } = enrolled;
      const nonce = randomBytes(nonceBytes);
      const ask = async (asked = nonce): Promise<Buffer> =>
        (await rig.client.ask(`${paths.tokens}/${token.tokenId}/alarm?nonce=${asked.toString('hex')}`)).body;
      const open = (bytes: Uint8Array, asked: Uint8Array = nonce, tokenId = token.tokenIdBytes) => openAlarm(bytes, ackKey, tokenId, asked);
      const rival = token.batch(1, {}, true);
      await rig.acknowledged(enrolled, [token.batch(2)]);
      expect(open(await ask()).alarm).toBeNull();
      await rig.send(enrolled, [rival]);
      const answer = await ask();
      expect(Buffer.from(open(answer).alarm?.sealBytes ?? [])).toEqual(Buffer.from(rival.sealBytes));
      const refused = expect.objectContaining({ code: 'invalid-request' });
      expect(() => open(answer, randomBytes(nonceBytes))).toThrow(refused);
      expect(() => open(answer, nonce, new Uint8Array(16))).toThrow(refused);
      for (let at = 0; at < answer.length; at += 1) {
        const bad = Buffer.from(answer);
        bad.writeUInt8(bad.readUInt8(at) ^ 0x01, at);
        expect(() => open(bad)).toThrow(refused);
      }
      const probe = await rig.client.ask(`${paths.probe}?nonce=${nonce.toString('hex')}`);
      expect(() => open(probe.body)).toThrow(refused);
      for (const query of ['', '?nonce=xyz', '?nonce=00&more=1']) {
        expect((await rig.client.ask(`${paths.tokens}/${token.tokenId}/alarm${query}`)).status).toBe(400);
      }
    });

    test('that goes on from a clone’s batch is a fork too', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      await rig.acknowledged(enrolled, [token.batch(1)]);
      const other = token.batch(1, { previousSealHash: new Uint8Array(32) }, true);
      expect(refusalIn(await rig.send(enrolled, [other]))).toMatchObject({ status: 409, code: 'fork', wantBatch: 2 });
      expect((await view(enrolled)).alarm).not.toBeNull();
    });

    test('of another chain’s start is a fork: the certificate is where a chain begins', async () => {
      const enrolled = await rig.enrol();
      enrolled.token.begin(Buffer.from('another certificate'));
      expect(refusalIn(await rig.send(enrolled, [enrolled.token.batch(1)])).code).toBe('fork');
    });
  });

  describe('a forged upload', () => {
    test.each(['seal signature', 'leaf', 'body', 'root', 'order of entries', 'count', 'sequence'])(
      'with another %s is refused, without an alarm, and nothing of it is stored',
      async (what) => {
        const enrolled = await rig.enrol();
        const { token } = enrolled;
        const good = token.batch(3);
        const start = token.head;
        const drafts = 4;
        let bad: Uint8Array;
        switch (what) {
          case 'root':
            bad = token.batch(drafts, { root: new Uint8Array(32) }).bytes;
            break;
          case 'count':
            bad = token.batch(drafts, { count: 3 }).bytes;
            break;
          case 'sequence':
            bad = token.batch(drafts, { firstSequence: start.nextSequence + 1 }).bytes;
            break;
          default:
            bad = forge(token.batch(drafts).bytes, what);
        }
        const refusal = refusalIn(await rig.send(enrolled, [good, bad]));
        expect(refusal).toMatchObject({ status: 422, code: what === 'seal signature' ? 'bad-signature' : 'poison' });
        expect(await view(enrolled)).toMatchObject({ upToBatch: 0, lastSequence: 0, alarm: null });
        expect(await rig.entries(token.tokenId, 'from=1')).toEqual([]);
        expect((await rig.acknowledged(enrolled, [good])).upToBatch).toBe(1);
      },
    );

    test('in the name of another token raises no alarm and changes nothing', async () => {
      const [mine, thief] = [await rig.enrol(), await rig.enrol()];
      const batches = [mine.token.batch(1), mine.token.batch(1)];
      await rig.acknowledged(mine, batches.slice(0, 1));
      const own = [thief.token.batch(1), thief.token.batch(1), thief.token.batch(1)];
      for (const sent of own) {
        const upload = encodeUpload({ tokenId: mine.token.tokenIdBytes, batches: [sent.bytes] });
        expect(refusalIn(await rig.sendPacked(mine, pack(upload)))).toMatchObject({ status: 422, code: 'bad-signature' });
      }
      expect(await view(mine)).toMatchObject({ upToBatch: 1, alarm: null });
      // A stranger who sends a token's own batches does it a service.
      expect((await rig.acknowledged(mine, batches)).upToBatch).toBe(2);
    });

    test('that puts other entries under a stored seal raises no alarm', async () => {
      const enrolled = await rig.enrol();
      const batch = enrolled.token.batch(3);
      await rig.acknowledged(enrolled, [batch]);
      expect(refusalIn(await rig.send(enrolled, [forge(batch.bytes, 'body')])).code).toBe('poison');
      expect((await view(enrolled)).alarm).toBeNull();
    });

    test('of a token that is not enrolled is unknown', async () => {
      const enrolled = await rig.enrol();
      const stranger = new BuiltToken();
      stranger.begin(new Uint8Array(1));
      const reply = await rig.sendPacked(enrolled, pack(stranger.upload([stranger.batch(1)])));
      expect(refusalIn(reply)).toMatchObject({ status: 404, code: 'unknown-token' });
    });
  });

  /** The batch with one thing changed under its own seal. */
  function forge(bytes: Uint8Array, what: string): Uint8Array {
    const batch = decodeBatch(bytes);
    const entries = [...batch.entries];
    const [first, second] = entries;
    if (first === undefined || second === undefined) throw new Error('the batch is too small to forge');
    const sealBytes = Buffer.from(batch.sealBytes);
    if (what === 'seal signature') sealBytes[sealBytes.length - 1] = (sealBytes[sealBytes.length - 1] ?? 0) ^ 1;
    if (what === 'leaf') entries[0] = { ...first, leaf: encodeLeaf({ ...decodeLeaf(first.leaf), total: '0.01' }) };
    if (what === 'body') entries[0] = { ...first, body: Buffer.from(Buffer.from(first.body).toString('utf8').replace('HEART', 'HEARD')) };
    if (what === 'order of entries') entries.splice(0, 2, second, first);
    return encodeBatch(sealBytes, joinEntries(entries.map(encodeEntry)));
  }

  describe('garbage', () => {
    test('of every size is refused as such', async () => {
      const enrolled = await rig.enrol();
      for (const bytes of [0, 1, 65, 81, 82, 5_000]) {
        const reply = await rig.client.ask(paths.batches, { body: Buffer.alloc(bytes, 7), type: mediaTypes.upload });
        expect(refusalIn(reply)).toMatchObject({ status: 400, code: 'bad-request' });
      }
      for (const packed of [
        Buffer.from('not zstd'),
        pack(Buffer.from('not CBOR')),
        pack(encodeUpload({ tokenId: new Uint8Array(16), batches: [] })),
      ])
        expect(refusalIn(await rig.sendPacked(enrolled, packed))).toMatchObject({ status: 400, code: 'bad-request' });
      const noBatch = encodeUpload({ tokenId: enrolled.token.tokenIdBytes, batches: [Buffer.from('no batch')] });
      expect(refusalIn(await rig.sendPacked(enrolled, pack(noBatch)))).toMatchObject({ status: 422, code: 'poison' });
    });

    test('sealed to another key, or for another use, is not opened', async () => {
      const enrolled = await rig.enrol();
      const packed = pack(enrolled.token.upload([enrolled.token.batch(1)]));
      const foreign = rawPublicKey(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey);
      const own = Buffer.from(enrolled.charter.server.sealKey, 'base64');
      for (const body of [await sealTo(foreign, packed), await sealTo(own, packed, recoveryInfoOf(new Uint8Array(16)))])
        expect(refusalIn(await rig.client.ask(paths.batches, { body, type: mediaTypes.upload }))).toMatchObject({
          status: 400,
          code: 'bad-request',
        });
    });

    test('that grows without end is cut where the limit is', async () => {
      const enrolled = await rig.enrol();
      const bomb = zstdCompressSync(Buffer.alloc(20 * uploadMaxBytes));
      expect(bomb.length).toBeLessThan(uploadMaxBytes / 100);
      const before = process.memoryUsage.rss();
      expect(refusalIn(await rig.sendPacked(enrolled, bomb))).toMatchObject({ status: 413, code: 'too-large' });
      expect(process.memoryUsage.rss() - before).toBeLessThan(10 * uploadMaxBytes);
      const wide = zstdCompressSync(Buffer.alloc(30_000_000, 'wide window '), {
        params: { [constants.ZSTD_c_windowLog]: 27, [constants.ZSTD_c_enableLongDistanceMatching]: 1 },
      });
      expect(refusalIn(await rig.sendPacked(enrolled, wide)).status).toBe(400);
    });
  });

  describe('a document that does not say what its leaf says', () => {
    const lies: readonly (readonly [string, Omit<BuiltDraft & { kind: 'document' }, 'kind'>])[] = [
      ['total', { leaf: { total: '0.01' } }],
      ['taxTotal', { leaf: { taxTotal: '0.01' } }],
      ['currency', { leaf: { currency: 'EUR' } }],
      ['number', { leaf: { number: 'A-99' } }],
      ['kind', { leaf: { kind: 'credit-note' as const } }],
      ['time', { leaf: { issuedAtMs: 1 } }],
      ['issuer', { leaf: { issuerTaxId: 'GB1' } }],
      ['sequence', { change: { sequence: 7 } }],
      ['token', { change: { token: '0'.repeat(32) } }],
      ['form', { change: { lines: 'none' as never } }],
    ];
    test.each(lies)('in %s is stored and parked; the rest goes on', async (_what, draft) => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const ack = await rig.acknowledged(enrolled, [
        token.batch([{ kind: 'document' }, { kind: 'document', ...draft }, { kind: 'document' }]),
      ]);
      expect(ack).toMatchObject({ upToBatch: 1, parked: [2] });
      expect(await rig.entries(token.tokenId, 'sequence=2')).toHaveLength(1);
    });

    test('because it is no document at all is parked, whatever its bytes', async () => {
      const enrolled = await rig.enrol();
      const bodies = [
        Buffer.alloc(0),
        Buffer.from('null'),
        Buffer.from('{"a":1,"a":2}'),
        Buffer.from('['.repeat(100_000)),
        Buffer.from([0xff, 0xfe]),
      ];
      const amounts = { number: 'X', currency: 'GBP', total: '1.00', taxTotal: '0.00' };
      const drafts = bodies.map((body, at) => ({
        kind: 'body' as const,
        entryKind: 'invoice' as const,
        body,
        leaf: { ...amounts, number: `X-${at}` },
      }));
      const ack = await rig.acknowledged(enrolled, [enrolled.token.batch(drafts)]);
      expect(ack.parked).toEqual([1, 2, 3, 4, 5]);
    });

    test('because its number was given before is parked, in one upload and in two', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const again = { kind: 'document' as const, change: { number: 'A-00000001' } };
      expect((await rig.acknowledged(enrolled, [token.batch(1), token.batch([again])])).parked).toEqual([2]);
      const ack = await rig.acknowledged(enrolled, [token.batch([{ kind: 'document' }, again])]);
      expect(ack.parked).toEqual([2, 4]);
      expect((await rig.entries(token.tokenId, 'number=A-00000001')).map((entry) => entry.sequence)).toEqual([1, 2, 4]);
    });
  });

  describe('what is read back', () => {
    test('by number and by sequence carries the body and evidence that holds', async () => {
      const enrolled = await rig.enrol();
      const { token } = enrolled;
      const batches = [token.batch(5), token.batch(7)];
      await rig.acknowledged(enrolled, batches);
      const entries = batches.flatMap((batch) => batch.entries);
      for (const query of [
        (sequence: number) => `sequence=${sequence}`,
        (sequence: number) => `number=A-${String(sequence).padStart(8, '0')}`,
      ]) {
        for (const [at, entry] of entries.entries()) {
          const [found, ...more] = await rig.entries(token.tokenId, query(at + 1));
          expect(more).toEqual([]);
          expect(found).toMatchObject({ tokenId: token.tokenId, sequence: at + 1, batchIndex: at < 5 ? 1 : 2, kind: 'invoice' });
          const body = Buffer.from(found?.body ?? '', 'base64');
          expect(body).toEqual(Buffer.from(entry.body));
          const evidence = decodeEvidence(Buffer.from(found?.evidence ?? '', 'base64'));
          expect(verifyEvidence(evidence, token.publicKey, body).leaf.sequence).toBe(at + 1);
          const other = new BuiltToken();
          expect(() => verifyEvidence(evidence, other.publicKey, body)).toThrow(expect.objectContaining({ code: 'invalid-request' }));
        }
      }
      expect(await rig.entries(token.tokenId, 'number=A-99')).toEqual([]);
      expect(await rig.entries(token.tokenId, 'sequence=13')).toEqual([]);
      expect((await rig.entries(token.tokenId, 'from=4&limit=3')).map((entry) => entry.sequence)).toEqual([4, 5, 6]);
    });

    test('as batches verifies as a chain from the certificate to the head', async () => {
      const enrolled = await rig.enrol();
      const { token, enrolment } = enrolled;
      const certificate = await rig.client.ask(`${paths.tokens}/${token.tokenId}/certificate`);
      expect(certificate.body.toString('base64')).toBe(enrolment.certificate);
      let head = token.head;
      await rig.acknowledged(
        enrolled,
        Array.from({ length: 9 }, () => token.batch(2)),
      );
      for (let from = 1; from <= 9; ) {
        const { batches } = decodeUpload((await rig.client.ask(`${paths.tokens}/${token.tokenId}/batches?from=${from}&limit=4`)).body);
        for (const bytes of batches) ({ head } = verifyBatch(bytes, token.publicKey, head));
        from += batches.length;
      }
      expect(head).toEqual(token.head);
      const past = await rig.client.ask(`${paths.tokens}/${token.tokenId}/batches?from=10`);
      expect(refusalIn(past)).toMatchObject({ status: 404, code: 'gap', wantBatch: 10 });
    });
  });
}
