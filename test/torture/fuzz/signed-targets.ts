// Owns: the targets of what is signed: the input is the payload (or the document), signed anew with the vectors' keys, so that the fuzz comes behind
// the signature: what a faulty or malicious owner of a key could have signed. That a signature is checked at all is the vectors' business.
import { openCharter } from '#ipc-schema/charter.ts';
import { decodeSign1, keyIdOf, makeSign1 } from '#ipc-schema/cose.ts';
import { keyRequestPayload, openKeyRequest, openSuccessionRequest, successionRequestPayload } from '#ipc-schema/recovery.ts';
import { openSuccession } from '#ipc-schema/succession.ts';
import { openTemplate } from '#ipc-schema/template.ts';
import {
  acknowledgementPayload,
  alarmPayload,
  decodeAcknowledgementBody,
  decodeUpload,
  encodeAcknowledgementBody,
  encodeUpload,
  enrolmentPayload,
  openAcknowledgement,
  openAlarm,
  openEnrolment,
  openProbe,
  probePayload,
} from '#ipc-schema/upstream.ts';
import {
  batchAt,
  charter,
  freshSignature,
  hex,
  type KeyName,
  privateKeys,
  publicKey,
  spkiOf,
  successorCertificates,
  template,
  tokenId,
  unhex,
} from '#test/vectors/world.ts';
import { type FuzzTarget, json, oneMeaning, oneSpelling } from './target.ts';
import { vectorsOf } from './vector-files.ts';

function signedBy(name: KeyName, payload: Uint8Array): Uint8Array {
  return makeSign1('ES256', keyIdOf(publicKey(name)), payload, (message) => freshSignature(privateKeys[name], 'ES256', message));
}

const nonce = unhex('5a'.repeat(16));
const sealHash = unhex('c3'.repeat(32));
const { sealBytes } = batchAt(1);
const payloadsOf = (name: string): Uint8Array[] =>
  vectorsOf(name).flatMap((bytes) => {
    try {
      return [decodeSign1(bytes, 'it').payload];
    } catch {
      return []; // refused before there is a payload
    }
  });

const succession = {
  format: 'ukey-succession/1',
  tokenId: hex(tokenId),
  serial: 1,
  fromBatch: 4,
  previousSealHash: hex(sealHash),
  certificate: Buffer.from(successorCertificates.successor).toString('base64'),
  reason: 'token-lost',
  issuedAt: '2026-03-02T09:30:00Z',
};

const serverKey = publicKey('server');
const authorityKey = publicKey('authority');
const alarms = [null, { sealBytes, raisedAtMs: 1_772_443_800_000 }].map((alarm) =>
  alarmPayload({ nonce, tokenId, serverTimeMs: 1_772_443_800_000, alarm }),
);
const acks = [
  { tokenId, upToBatch: 3, headSealHash: sealHash, serverTimeMs: 1_772_443_800_000, parked: [] },
  { tokenId, upToBatch: 3, headSealHash: sealHash, serverTimeMs: 1_772_443_800_000, parked: [4, 9] },
];

export const signedTargets: readonly FuzzTarget[] = [
  {
    name: 'charter',
    form: 'text',
    seeds: [json(charter)],
    judge: oneMeaning((input) => openCharter(signedBy('authority', input), authorityKey), json),
  },
  {
    name: 'template',
    form: 'text',
    seeds: [json(template)],
    judge: oneMeaning((input) => openTemplate(signedBy('authority', input), authorityKey), json),
  },
  {
    name: 'succession',
    form: 'text',
    seeds: [json(succession)],
    judge: oneMeaning(
      (input) => {
        const { signer, ...fields } = openSuccession(signedBy('authority', input), authorityKey);
        return { fields, keyId: hex(signer.keyId), fromBatch: signer.fromBatch };
      },
      ({ fields }) => json(fields),
    ),
  },
  {
    name: 'acknowledgement',
    form: 'cbor',
    seeds: acks.map(acknowledgementPayload),
    judge: oneSpelling((input) => openAcknowledgement(signedBy('server', input), serverKey), acknowledgementPayload),
  },
  {
    name: 'acknowledgement-entry',
    form: 'cbor',
    seeds: [0, 12].map((releasedCount) =>
      encodeAcknowledgementBody({
        signed: vectorsOf('ack.json')[0] ?? nonce,
        releasedCount,
        releasedAmount: '12.50',
        nextOldestMs: releasedCount === 0 ? null : 7,
      }),
    ),
    judge: oneSpelling(decodeAcknowledgementBody, encodeAcknowledgementBody),
  },
  {
    name: 'probe',
    form: 'cbor',
    seeds: [probePayload({ nonce, serverTimeMs: 1_772_443_800_000 }), ...payloadsOf('probe.json')],
    judge: oneSpelling((input) => openProbe(signedBy('server', input), serverKey, nonce), probePayload),
  },
  {
    name: 'alarm',
    form: 'cbor',
    seeds: alarms,
    judge: oneSpelling((input) => openAlarm(signedBy('server', input), serverKey, tokenId, nonce), alarmPayload),
  },
  {
    name: 'enrolment',
    form: 'cbor',
    seeds: [enrolmentPayload({ spki: spkiOf('token'), serial: 'S-1', code: 'ABCD' }), ...payloadsOf('enrolment.json')],
    judge: oneSpelling((input) => openEnrolment(signedBy('token', input)), enrolmentPayload),
  },
  {
    name: 'recover-key',
    form: 'cbor',
    seeds: [
      keyRequestPayload({
        spki: spkiOf('token'),
        serial: 'S-1',
        code: 'ABCD',
        tokenId,
        slot: unhex('11'.repeat(113)),
        replyKey: spkiOf('token').subarray(-65),
      }),
    ],
    judge: oneSpelling((input) => openKeyRequest(signedBy('token', input)), keyRequestPayload),
  },
  {
    name: 'succeed',
    form: 'cbor',
    seeds: [
      successionRequestPayload({
        spki: spkiOf('token'),
        code: 'ABCD',
        tokenId,
        fromBatch: 4,
        previousSealHash: sealHash,
        afterSerial: 0,
        reason: 'token-lost',
      }),
    ],
    judge: oneSpelling((input) => openSuccessionRequest(signedBy('token', input)), successionRequestPayload),
  },
  { name: 'upload', form: 'cbor', seeds: vectorsOf('upload.json'), judge: oneSpelling(decodeUpload, encodeUpload) },
];
