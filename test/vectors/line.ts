// Owns: the vectors of what crosses the line to the ticket server: acknowledgement, probe, upload, enrolment, renewal.
import type { CborValue } from '#ipc-schema/cbor.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { renewalPayload } from '#ipc-schema/renewal.ts';
import { acknowledgementPayload, encodeUpload, enrolmentPayload, probePayload } from '#ipc-schema/upstream.ts';
import { arrayHex, type Bad, bad, item, spellings, versions } from './shape.ts';
import * as world from './world.ts';

const { hex, unhex } = world;

const serverTimeMs = Date.parse('2026-03-02T10:00:00Z');
const ack = { tokenId: world.tokenId, upToBatch: 2, headSealHash: sha256(world.batchAt(2).sealBytes), serverTimeMs, parked: [4, 5] };
const nonce = unhex('000102030405060708090a0b0c0d0e0f');
const items = (...fields: CborValue[]): string[] => fields.map(item);

/** Payloads that are wrong, rightly signed. */
const signedBad = (key: world.KeyName, payloads: readonly Bad[]): Bad[] =>
  payloads.map((one) => bad(`payload: ${one.name}`, world.signed(key, unhex(one.bytes))));

function acknowledgementVectors(): unknown {
  const fields = items(1, 'ack', ack.tokenId, ack.upToBatch, ack.headSealHash, ack.serverTimeMs, ack.parked);
  const change = (name: string, at: number, to: string): Bad => bad(name, arrayHex(fields, { [at]: to }));
  const shown = (name: string, parked: number[]): unknown => ({
    name,
    bytes: hex(world.signed('server', acknowledgementPayload({ ...ack, parked }))),
    ack: { tokenId: hex(ack.tokenId), upToBatch: ack.upToBatch, headSealHash: hex(ack.headSealHash), serverTimeMs, parked },
  });
  return {
    description:
      'Acknowledgements: COSE_Sign1 by the server; payload CBOR [1, "ack", tokenId, upToBatch, headSealHash, serverTimeMs, parked].',
    ackKey: hex(world.spkiOf('server')),
    valid: [shown('two parked', [4, 5]), shown('none parked', [])],
    invalid: [
      ...signedBad('server', [
        ...spellings(fields),
        ...versions(fields),
        change('purpose probe', 1, item('probe')),
        change('token id of 17 bytes', 2, item(new Uint8Array(17))),
        change('head hash of 31 bytes', 4, item(ack.headSealHash.subarray(1))),
        change('parked out of order', 6, '820504'),
        change('parked twice', 6, '820404'),
        change('parked 0', 6, '8100'),
        change('parked text', 6, '816134'),
        bad("a probe's answer", probePayload({ nonce, serverTimeMs })),
      ]),
      bad('signed by the token', world.signed('token', acknowledgementPayload(ack))),
      bad('payload alone', acknowledgementPayload(ack)),
    ],
  };
}

function probeVectors(): unknown {
  const fields = items(1, 'probe', nonce, serverTimeMs);
  const answer = probePayload({ nonce, serverTimeMs });
  return {
    description: 'Answers to GET /v1/probe: COSE_Sign1 by the server; payload CBOR [1, "probe", nonce, serverTimeMs], for this very nonce.',
    ackKey: hex(world.spkiOf('server')),
    nonce: hex(nonce),
    valid: [{ name: 'answer', bytes: hex(world.signed('server', answer)), serverTimeMs }],
    invalid: [
      ...signedBad('server', [
        ...spellings(fields),
        ...versions(fields),
        bad('another nonce', probePayload({ nonce: nonce.with(0, 1), serverTimeMs })),
        bad('nonce of 15 bytes', arrayHex(fields, { 2: item(nonce.subarray(1)) })),
        bad('an acknowledgement', acknowledgementPayload(ack)),
      ]),
      bad('signed by another', world.signed('stranger', answer)),
    ],
  };
}

function uploadVectors(): unknown {
  const batches = world.batches.map((batch) => batch.bytes);
  const fields = items(1, world.tokenId, batches);
  const change = (name: string, at: number, to: string): Bad => bad(name, arrayHex(fields, { [at]: to }));
  const short = items(1, world.tokenId, [world.batchAt(3).bytes]);
  return {
    description: 'Bodies of POST /v1/batches before compression and sealing: CBOR [1, tokenId, [batch, …]]. batches: their SHA-256.',
    valid: [
      {
        name: 'three batches',
        bytes: hex(encodeUpload({ tokenId: world.tokenId, batches })),
        tokenId: hex(world.tokenId),
        batches: batches.map((batch) => hex(sha256(batch))),
      },
    ],
    invalid: [
      ...spellings(short),
      ...versions(short),
      change('token id of 15 bytes', 1, item(world.tokenId.subarray(1))),
      change('no batches', 2, '80'),
      change('257 batches', 2, `990101${'40'.repeat(257)}`),
      change('a batch as text', 2, '8160'),
    ],
  };
}

function enrolmentVectors(): unknown {
  const request = { spki: world.spkiOf('token'), serial: 'SN-0001', code: 'enrol-1' };
  const fields = items(1, 'enrol', request.spki, request.serial, request.code);
  const change = (name: string, at: number, to: string): Bad => bad(name, arrayHex(fields, { [at]: to }));
  const payload = enrolmentPayload(request);
  return {
    description:
      'Bodies of POST /v1/enrol: COSE_Sign1 by the new token over CBOR [1, "enrol", spki, serial, code], under the key that stands inside.',
    valid: [{ name: 'request', bytes: hex(world.signed('token', payload)), ...request, spki: hex(request.spki) }],
    invalid: [
      ...signedBad('token', [
        ...spellings(fields),
        ...versions(fields),
        change('purpose ack', 1, item('ack')),
        change('a key that is no key', 2, item(unhex('3000'))),
        change('no serial', 3, '60'),
        change('a code with a space', 4, item('enrol 1')),
      ]),
      bad('signed by another key than the one inside', world.signed('stranger', payload)),
      bad('a seal', world.batchAt(2).sealBytes),
    ],
  };
}

function renewalVectors(): unknown {
  const request = { spki: world.spkiOf('token'), tokenId: world.tokenId, certificateHash: sha256(world.tokenCertificate) };
  const fields = items(1, 'renew', request.spki, request.tokenId, request.certificateHash);
  const change = (name: string, at: number, to: string): Bad => bad(name, arrayHex(fields, { [at]: to }));
  const payload = renewalPayload(request);
  const { renewed, ...wrong } = world.fixed.renewedCertificates;
  return {
    description:
      'Bodies of POST /v1/renew: COSE_Sign1 by the key over CBOR [1, "renew", spki, tokenId, certificateHash], under the key that stands inside; and certificates (DER) that renew `certificate` or do not.',
    authorityKey: hex(world.spkiOf('authority')),
    tokenId: hex(world.tokenId),
    certificate: hex(world.tokenCertificate),
    certificates: { valid: [renewed], invalid: wrong },
    valid: [
      {
        name: 'request',
        bytes: hex(world.signed('token', payload)),
        spki: hex(request.spki),
        tokenId: hex(request.tokenId),
        certificateHash: hex(request.certificateHash),
      },
    ],
    invalid: [
      ...signedBad('token', [
        ...spellings(fields),
        ...versions(fields),
        change('purpose enrol', 1, item('enrol')),
        change('a key that is no key', 2, item(unhex('3000'))),
        change('token id of 15 bytes', 3, item(request.tokenId.subarray(1))),
        change('certificate hash of 31 bytes', 4, item(request.certificateHash.subarray(1))),
      ]),
      bad('signed by another key than the one inside', world.signed('stranger', payload)),
      bad('a seal', world.batchAt(2).sealBytes),
    ],
  };
}

/** By file. */
export function lineVectors(): Record<string, unknown> {
  return {
    'ack.json': acknowledgementVectors(),
    'probe.json': probeVectors(),
    'upload.json': uploadVectors(),
    'enrolment.json': enrolmentVectors(),
    'renewal.json': renewalVectors(),
  };
}
