import { describe, expect, it } from 'vitest';
import { openCharter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { decodeLeaf } from '#ipc-schema/entry.ts';
import { type ErrorCode, errorTable, isErrorCode } from '#ipc-schema/errors.ts';
import { decodeEvidence, evidenceFromQr, qrText } from '#ipc-schema/evidence.ts';
import { clientMac, macEquals, serviceMac } from '#ipc-schema/handshake.ts';
import { leafHash, rootFromPath, sha256 } from '#ipc-schema/merkle.ts';
import { openRenewalRequest } from '#ipc-schema/renewal.ts';
import { checkRenewal, firstSigner, newestSigner, nobodySucceeds, signerAt } from '#ipc-schema/signers.ts';
import { succeedBy } from '#ipc-schema/succession.ts';
import { openTemplate } from '#ipc-schema/template.ts';
import { decodeUpload, openAcknowledgement, openEnrolment, openProbe } from '#ipc-schema/upstream.ts';
import { type ChainHead, chainStart, verifyBatch, verifyEvidence, verifyNext, verifySeal } from '#ipc-schema/verify.ts';
import { refusal } from '#test/support/refusal.ts';
import { readVectors, readVectorText } from '#test/support/vectors.ts';
import { makeVectors } from '#test/vectors/make.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'));
const key = (spki: string) => publicKeyFromSpki(unhex(spki));

interface Refused {
  readonly name: string;
  readonly bytes: string;
  readonly code: ErrorCode;
}

/** Every invalid vector is refused with its code; there are some. */
function allRefused<Bad extends { name: string; code: ErrorCode }>(invalid: readonly Bad[], run: (bad: Bad) => unknown): void {
  expect(invalid.length).toBeGreaterThan(4);
  expect(new Set(invalid.map((bad) => bad.name)).size).toBe(invalid.length);
  for (const bad of invalid) refusal(() => run(bad), bad.code, bad.name);
}

describe('the vectors', () => {
  it('are what make.ts makes', () => {
    const made = makeVectors();
    expect(Object.keys(made).length).toBeGreaterThan(10);
    for (const [name, text] of Object.entries(made))
      expect(readVectorText(name) === text, `${name} is stale: run node test/vectors/make.ts`).toBe(true);
  });

  it('of Merkle paths hold', () => {
    interface Proof {
      name: string;
      leaf: string;
      index: number;
      count: number;
      path: string[];
      root: string;
    }
    const { valid, invalid } = readVectors<Proof, Proof & { code: ErrorCode }>('merkle.json');
    const leads = ({ leaf, index, count, path, root }: Proof): boolean => {
      const end = rootFromPath(leafHash(unhex(leaf)), index, count, path.map(unhex));
      return end !== null && hex(end) === root;
    };
    expect(valid).toHaveLength(36);
    for (const proof of valid) expect(leads(proof), proof.name).toBe(true);
    expect(invalid.length).toBeGreaterThan(8);
    for (const proof of invalid) expect(leads(proof), proof.name).toBe(false);
  });

  it('of leaves hold', () => {
    const { valid, invalid } = readVectors<{ bytes: string; leaf: Record<string, unknown>; leafHash: string }, Refused>('leaf.json');
    expect(valid.length).toBeGreaterThan(3);
    for (const { bytes, leaf, leafHash: expected } of valid) {
      const { bodyHash, ...rest } = decodeLeaf(unhex(bytes));
      expect({ ...rest, bodyHash: hex(bodyHash) }).toEqual(leaf);
      expect(hex(leafHash(unhex(bytes)))).toBe(expected);
    }
    allRefused(invalid, ({ bytes }) => decodeLeaf(unhex(bytes)));
  });

  it('of seals hold', () => {
    interface Good {
      tokenKey: string;
      bytes: string;
      seal: { batchIndex: number; root: string };
      sealHash: string;
    }
    const { valid, invalid, tokenKey } = readVectors<Good, Refused, { tokenKey: string }>('seal.json');
    expect(valid).toHaveLength(8);
    for (const good of valid) {
      const seal = verifySeal(unhex(good.bytes), key(good.tokenKey));
      expect([seal.batchIndex, hex(seal.root), hex(sha256(unhex(good.bytes)))]).toEqual([
        good.seal.batchIndex,
        good.seal.root,
        good.sealHash,
      ]);
    }
    allRefused(invalid, ({ bytes }) => verifySeal(unhex(bytes), key(tokenKey)));
  });

  it('of batches hold, each behind the one before', () => {
    interface Head {
      batchIndex: number;
      nextSequence: number;
      sealHash: string;
    }
    const { valid, invalid, tokenKey, certificate } = readVectors<
      { bytes: string; head: Head; headAfter: Head; sequences: number[] },
      Refused & { head: Head },
      { tokenKey: string; certificate: string }
    >('batch.json');
    const headOf = (head: Head): ChainHead => ({ ...head, sealHash: unhex(head.sealHash) });
    let head = chainStart(unhex(certificate));
    expect(valid).toHaveLength(3);
    for (const good of valid) {
      expect(headOf(good.head)).toEqual({ ...head, sealHash: new Uint8Array(head.sealHash) });
      const verified = verifyBatch(unhex(good.bytes), key(tokenKey), head);
      expect(verified.entries.map((entry) => entry.parsed.sequence)).toEqual(good.sequences);
      head = verified.head;
      expect({ ...head, sealHash: hex(head.sealHash) }).toEqual(good.headAfter);
    }
    allRefused(invalid, (bad) => verifyBatch(unhex(bad.bytes), key(tokenKey), headOf(bad.head)));
  });

  it('of a ledger that other keys go on with hold, each behind the ones before', () => {
    const { valid, invalid, authorityKey, certificate, tokenId } = readVectors<
      { bytes: string; before: number; keyId: string },
      Refused & { before: number },
      { authorityKey: string; certificate: string; tokenId: string }
    >('succession.json');
    const succeed = succeedBy(key(authorityKey));
    const states = [{ head: chainStart(unhex(certificate)), signers: firstSigner(unhex(certificate)) }];
    const stateAt = (before: number) => states[before] ?? { head: chainStart(new Uint8Array()), signers: firstSigner(unhex(certificate)) };
    expect(valid).toHaveLength(6);
    for (const { bytes, before, keyId } of valid) {
      const { head, signers } = stateAt(before);
      const next = verifyNext(unhex(bytes), signers, head, succeed);
      expect(hex(newestSigner(next.signers).keyId)).toBe(keyId);
      expect(hex(next.signers.tokenId)).toBe(tokenId);
      states.push({ head: next.batch.head, signers: next.signers });
    }
    const walk = (bytes: string, before: number): unknown =>
      verifyNext(unhex(bytes), stateAt(before).signers, stateAt(before).head, succeed);
    allRefused(invalid, ({ bytes, before }) => walk(bytes, before));
    // Without the authority nobody can say who may go on.
    expect(() => verifyNext(unhex(valid[3]?.bytes ?? ''), stateAt(3).signers, stateAt(3).head, nobodySucceeds)).toThrow(
      expect.objectContaining({ code: 'invalid-request' }),
    );
    expect(signerAt(stateAt(6).signers, 4).serial).toBe(1);
    expect(signerAt(stateAt(6).signers, 3).serial).toBe(0);
  });

  it('of evidence hold', () => {
    const { valid, invalid, tokenKey } = readVectors<
      { bytes: string; body: string; sequence: number },
      Refused & { body: string },
      { tokenKey: string }
    >('evidence.json');
    expect(valid).toHaveLength(7);
    for (const { bytes, body, sequence } of valid) {
      expect(verifyEvidence(decodeEvidence(unhex(bytes)), key(tokenKey), unhex(body)).leaf.sequence).toBe(sequence);
    }
    allRefused(invalid, ({ bytes, body }) => verifyEvidence(decodeEvidence(unhex(bytes)), key(tokenKey), unhex(body)));
  });

  it('of QR texts hold', () => {
    const { valid, invalid } = readVectors<{ verifyUrl: string | null; text: string; bytes: string }, Refused & { text: string }>(
      'qr.json',
    );
    expect(valid.length).toBeGreaterThan(7);
    for (const { verifyUrl, text, bytes } of valid) {
      expect(qrText(unhex(bytes), verifyUrl)).toBe(text);
      expect(hex(evidenceFromQr(text))).toBe(bytes);
    }
    allRefused(invalid, ({ text }) => evidenceFromQr(text));
  });

  it('of acknowledgements hold', () => {
    const { valid, invalid, ackKey } = readVectors<
      { bytes: string; ack: { tokenId: string; headSealHash: string } },
      Refused,
      { ackKey: string }
    >('ack.json');
    for (const { bytes, ack } of valid) {
      const { tokenId, headSealHash, ...rest } = openAcknowledgement(unhex(bytes), key(ackKey));
      expect({ ...rest, tokenId: hex(tokenId), headSealHash: hex(headSealHash) }).toEqual(ack);
    }
    allRefused(invalid, ({ bytes }) => openAcknowledgement(unhex(bytes), key(ackKey)));
  });

  it('of probes hold', () => {
    const { valid, invalid, ackKey, nonce } = readVectors<
      { bytes: string; serverTimeMs: number },
      Refused,
      { ackKey: string; nonce: string }
    >('probe.json');
    for (const { bytes, serverTimeMs } of valid) expect(openProbe(unhex(bytes), key(ackKey), unhex(nonce)).serverTimeMs).toBe(serverTimeMs);
    allRefused(invalid, ({ bytes }) => openProbe(unhex(bytes), key(ackKey), unhex(nonce)));
  });

  it('of uploads hold', () => {
    const { valid, invalid } = readVectors<{ bytes: string; tokenId: string; batches: string[] }, Refused>('upload.json');
    for (const { bytes, tokenId, batches } of valid) {
      const upload = decodeUpload(unhex(bytes));
      expect(hex(upload.tokenId)).toBe(tokenId);
      expect(upload.batches.map((batch) => hex(sha256(batch)))).toEqual(batches);
    }
    allRefused(invalid, ({ bytes }) => decodeUpload(unhex(bytes)));
  });

  it('of enrolments hold', () => {
    const { valid, invalid } = readVectors<{ bytes: string; spki: string; serial: string; code: string }, Refused>('enrolment.json');
    for (const { bytes, spki, serial, code } of valid) {
      const request = openEnrolment(unhex(bytes));
      expect([hex(request.spki), request.serial, request.code]).toEqual([spki, serial, code]);
    }
    allRefused(invalid, ({ bytes }) => openEnrolment(unhex(bytes)));
  });

  it('of renewals hold, requests and certificates', () => {
    interface Shared {
      authorityKey: string;
      tokenId: string;
      certificate: string;
      certificates: { valid: string[]; invalid: Record<string, string> };
    }
    const { valid, invalid, ...shared } = readVectors<
      { bytes: string; spki: string; tokenId: string; certificateHash: string },
      Refused,
      Shared
    >('renewal.json');
    for (const { bytes, spki, tokenId, certificateHash } of valid) {
      const request = openRenewalRequest(unhex(bytes));
      expect([hex(request.spki), hex(request.tokenId), hex(request.certificateHash)]).toEqual([spki, tokenId, certificateHash]);
    }
    allRefused(invalid, ({ bytes }) => openRenewalRequest(unhex(bytes)));
    const renews = (next: string): void =>
      checkRenewal(unhex(next), unhex(shared.certificate), unhex(shared.tokenId), key(shared.authorityKey));
    for (const next of shared.certificates.valid) renews(next);
    const wrong = Object.entries(shared.certificates.invalid);
    expect(wrong.length).toBeGreaterThan(4);
    for (const [name, next] of wrong) refusal(() => renews(next), 'invalid-request', name);
  });

  it.each([
    ['charter.json', openCharter],
    ['template.json', openTemplate],
  ] as const)('of %s hold, and each refusal names the field', (name, open) => {
    const { valid, invalid, authorityKey } = readVectors<{ bytes: string }, Refused & { field: string | null }, { authorityKey: string }>(
      name,
    );
    for (const { bytes } of valid) expect(open(unhex(bytes), key(authorityKey)).format).toMatch(/^ukey-/);
    allRefused(invalid, ({ bytes }) => open(unhex(bytes), key(authorityKey)));
    for (const { name: vector, bytes, field } of invalid) {
      expect(refusal(() => open(unhex(bytes), key(authorityKey))).field ?? null, vector).toBe(field);
    }
  });

  it('of errors are the table', () => {
    const { valid, invalid } = readVectors<{ name: string }, { name: string }>('errors.json');
    expect(Object.fromEntries(valid.map(({ name, ...rule }) => [name, rule]))).toEqual(errorTable);
    expect(invalid.filter(({ name }) => isErrorCode(name))).toEqual([]);
  });

  it('of the handshake hold', () => {
    interface Shared {
      secret: string;
      challenge: string;
      nonce: string;
      terminal: string;
    }
    const file = readVectors<{ name: string; mac: string }, { name: string; side: string; mac: string }, Shared>('handshake.json');
    const expected = { client: clientMac(unhex(file.secret), file), server: serviceMac(unhex(file.secret), file) };
    expect(Object.fromEntries(file.valid.map(({ name, mac }) => [name, mac]))).toEqual(expected);
    expect(file.invalid.length).toBeGreaterThan(3);
    for (const { name, side, mac } of file.invalid)
      expect(macEquals(side === 'client' ? expected.client : expected.server, mac), name).toBe(false);
  });
});
