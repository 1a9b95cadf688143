import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { batchMaxEntries, decodeBatch, encodeBatch, joinEntries, sealPayload } from '#ipc-schema/batch.ts';
import { encodeCbor } from '#ipc-schema/cbor.ts';
import { bodyMaxBytes, decodeEntry, decodeLeaf, encodeEntry, encodeLeaf, entryKinds, isFiscal, type Leaf } from '#ipc-schema/entry.ts';
import { decodeBase32, decodeEvidence, encodeBase32, encodeEvidence, evidenceFromQr, qrText } from '#ipc-schema/evidence.ts';
import { decodeAcknowledgementBody, encodeAcknowledgementBody, openAcknowledgement, openEnrolment } from '#ipc-schema/upstream.ts';
import { chainStart, verifyBatch, verifyEvidence } from '#ipc-schema/verify.ts';
import { refusal } from '#test/support/refusal.ts';
import { readVectors } from '#test/support/vectors.ts';
import * as world from '#test/vectors/world.ts';

const seed = Number(process.env['SEED'] ?? 20_260_303);
const { hex } = world;
const tokenKey = world.publicKey('token');

/** Each byte changed (one bit, all bits), each cut, some bytes more. */
function* mutations(bytes: Uint8Array): Generator<readonly [string, Uint8Array]> {
  for (const [at, byte] of bytes.entries()) {
    yield [`byte ${at}, bit ${at % 8}`, bytes.with(at, byte ^ (1 << (at % 8)))];
    yield [`byte ${at} inverted`, bytes.with(at, byte ^ 0xff)];
    yield [`cut at ${at}`, bytes.subarray(0, at)];
  }
  for (const more of [0x00, 0x80, 0xf6, 0xff]) yield [`${more} appended`, Buffer.concat([bytes, Uint8Array.of(more)])];
}

const anyLeaf = fc
  .record({
    kind: fc.constantFrom(...(Object.keys(entryKinds) as Leaf['kind'][])),
    sequence: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    issuedAtMs: fc.integer({ min: 0, max: 253_402_300_799_999 }),
    issuerTaxId: fc.string({ unit: 'grapheme', maxLength: 30 }).filter((text) => text.isWellFormed()),
    bodyHash: fc.uint8Array({ minLength: 32, maxLength: 32 }),
    number: fc.stringMatching(/^[A-Z]{1,4}\d{1,12}$/),
    total: fc.stringMatching(/^[1-9]\d{0,14}\.\d{2}$/),
  })
  .map(({ number, total, ...rest }): Leaf => {
    const fiscal = isFiscal(rest.kind);
    return {
      ...rest,
      number: fiscal ? number : null,
      currency: fiscal ? 'EUR' : null,
      total: fiscal ? total : null,
      taxTotal: fiscal ? '0.00' : null,
    };
  });

describe('a leaf', () => {
  it(`comes back as it went, in one spelling (seed ${seed})`, () => {
    fc.assert(
      fc.property(anyLeaf, (leaf) => {
        const bytes = encodeLeaf(leaf);
        expect(decodeLeaf(bytes)).toEqual(leaf);
        expect(hex(encodeLeaf(decodeLeaf(bytes)))).toBe(hex(bytes));
      }),
      { seed, numRuns: 300 },
    );
  });
});

describe('an entry', () => {
  it('is a leaf and a body, and nothing else', () => {
    const { entry } = world.evidenceOf(3);
    expect(decodeEntry([entry.leaf, entry.body])).toEqual(entry);
    for (const value of [[entry.leaf], [entry.leaf, entry.body, null], [entry.leaf, 'body'], null, new Map()])
      refusal(() => decodeEntry(value));
    refusal(() => decodeEntry([new Uint8Array(513), entry.body]));
    refusal(() => decodeEntry([entry.leaf, new Uint8Array(bodyMaxBytes + 1)]));
  });
});

describe('a batch', () => {
  it('is the same bytes whether joined from parts or written as a whole', () => {
    for (const { sealBytes, bytes, entries } of world.batches) {
      expect(hex(encodeCbor([sealBytes, entries.map((entry) => [entry.leaf, entry.body])]))).toBe(hex(bytes));
      expect(decodeBatch(bytes)).toEqual({ sealBytes, entries });
    }
    const many = Array.from({ length: 300 }, () => encodeEntry({ leaf: Uint8Array.of(1), body: Uint8Array.of(2) }));
    expect(decodeBatch(encodeBatch(Uint8Array.of(3), joinEntries(many))).entries).toHaveLength(300);
  });

  it(`holds at most ${batchMaxEntries} entries`, () => {
    const entry = encodeEntry({ leaf: Uint8Array.of(1), body: Uint8Array.of(2) });
    const filled = (count: number): Uint8Array => encodeBatch(Uint8Array.of(3), joinEntries(Array.from({ length: count }, () => entry)));
    expect(decodeBatch(filled(batchMaxEntries)).entries).toHaveLength(batchMaxEntries);
    refusal(() => decodeBatch(filled(batchMaxEntries + 1)));
    refusal(() => decodeBatch(filled(0)));
  });

  it('with the largest body is read back', () => {
    const entry = { leaf: new Uint8Array(512), body: new Uint8Array(bodyMaxBytes) };
    expect(decodeBatch(encodeBatch(Uint8Array.of(3), joinEntries([encodeEntry(entry)]))).entries[0]?.body.length).toBe(bodyMaxBytes);
  });

  it('is refused with any byte changed, any cut and any byte more', () => {
    const head = verifyBatch(world.batchAt(1).bytes, tokenKey, chainStart(world.tokenCertificate)).head;
    const { bytes } = world.batchAt(2);
    expect(verifyBatch(bytes, tokenKey, head).entries).toHaveLength(3);
    for (const [name, mutant] of mutations(bytes)) refusal(() => verifyBatch(mutant, tokenKey, head), 'invalid-request', name);
  });
});

describe('evidence', () => {
  const { evidence, entry } = world.evidenceOf(4);
  const bytes = encodeEvidence(evidence);

  it('comes back as it went', () => {
    expect(decodeEvidence(bytes)).toEqual(evidence);
    const { leaf, seal } = verifyEvidence(decodeEvidence(bytes), tokenKey, entry.body);
    expect([leaf.sequence, leaf.number, seal.batchIndex]).toEqual([4, 'A000002', 2]);
  });

  it('is refused with any byte changed, any cut and any byte more', () => {
    for (const [name, mutant] of mutations(bytes)) refusal(() => verifyEvidence(decodeEvidence(mutant), tokenKey), 'invalid-request', name);
  });

  it('is refused with any byte of the body changed', () => {
    for (const [name, mutant] of mutations(entry.body)) refusal(() => verifyEvidence(evidence, tokenKey, mutant), 'invalid-request', name);
  });

  it('of a token is none under the key of another', () => {
    refusal(() => verifyEvidence(evidence, world.publicKey('stranger')));
    refusal(() => verifyEvidence(evidence, world.publicKey('rsa')));
  });

  it('longer than any batch could make is refused', () => {
    refusal(() => decodeEvidence(encodeEvidence({ ...evidence, sealBytes: new Uint8Array(4_096) })));
  });
});

describe('a QR text', () => {
  it(`carries any bytes in both forms, in the characters of a QR's alphanumeric mode (seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 1_000 }), (bytes) => {
        for (const url of [null, 'https://verify.example/e']) expect(hex(evidenceFromQr(qrText(bytes, url)))).toBe(hex(bytes));
        expect(qrText(bytes, null)).toMatch(/^UKEY1:[A-Z2-7]*$/);
      }),
      { seed, numRuns: 200 },
    );
  });

  it(`has one spelling: of any text, what is read is written the same (seed ${seed})`, () => {
    let accepted = 0;
    fc.assert(
      fc.property(fc.stringMatching(/^[A-C2-4a=]{0,10}$/), (text) => {
        let bytes: Uint8Array;
        try {
          bytes = decodeBase32(text);
        } catch (error) {
          expect(error).toHaveProperty('code', 'invalid-request');
          return;
        }
        accepted++;
        expect(encodeBase32(bytes)).toBe(text);
      }),
      { seed, numRuns: 3_000 },
    );
    expect(accepted).toBeGreaterThan(20);
  });

  it('of a whole batch of a thousand fits a QR code', () => {
    const full = { ...world.evidenceOf(4).evidence, path: Array.from({ length: 10 }, () => new Uint8Array(32)) };
    expect(qrText(encodeEvidence(full), world.charter.verifyUrl).length).toBeLessThan(2_953); // version 40, level L, bytes
  });
});

describe('what crosses the line', () => {
  const first = (name: string): Uint8Array => {
    const [one] = readVectors<{ bytes: string }>(name).valid;
    return world.unhex(one?.bytes ?? '');
  };

  it('an acknowledgement is refused with any byte changed, any cut and any byte more', () => {
    for (const [name, mutant] of mutations(first('ack.json')))
      refusal(() => openAcknowledgement(mutant, world.publicKey('server')), 'invalid-request', name);
  });

  it('an enrolment is refused with any byte changed, any cut and any byte more', () => {
    for (const [name, mutant] of mutations(first('enrolment.json'))) refusal(() => openEnrolment(mutant), 'invalid-request', name);
  });

  it('an acknowledgement entry comes back as it went, and only with a decimal', () => {
    const body = { signed: Uint8Array.of(1, 2), releasedCount: 3, releasedAmount: '1234567890123456789.50', nextOldestMs: null };
    expect(decodeAcknowledgementBody(encodeAcknowledgementBody(body))).toEqual(body);
    expect(decodeAcknowledgementBody(encodeAcknowledgementBody({ ...body, nextOldestMs: 5 })).nextOldestMs).toBe(5);
    for (const releasedAmount of ['', '1e3', '01', '-0', '1.', ' 1'])
      refusal(() => decodeAcknowledgementBody(encodeAcknowledgementBody({ ...body, releasedAmount })));
  });

  it('a seal is written as its table says', () => {
    const { seal } = world.batchAt(1);
    const { tokenId, batchIndex, firstSequence, count, root, previousSealHash, sealedAtMs } = seal;
    expect(hex(sealPayload(seal))).toBe(
      hex(encodeCbor([1, tokenId, batchIndex, firstSequence, count, root, previousSealHash, sealedAtMs])),
    );
  });
});
