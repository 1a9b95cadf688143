// Owns: the targets of ipc-schema: JSON, frames, CBOR, COSE, leaf, batch, seal, evidence, and what tills and files send.
import { decodeAdminEvent, encodeAdminEvent } from '#ipc-schema/admin.ts';
import { decodeBatch, decodeSeal, encodeBatch, joinEntries, sealPayload } from '#ipc-schema/batch.ts';
import { type CborValue, decodeCbor, encodeCbor } from '#ipc-schema/cbor.ts';
import { decodeSign1, encodeSign1, protectedHeader } from '#ipc-schema/cose.ts';
import { decodeLeaf, encodeEntry, encodeLeaf } from '#ipc-schema/entry.ts';
import { decodeFrame, encodeRequest } from '#ipc-schema/envelope.ts';
import { decodeEvidence, encodeBase32, encodeEvidence, evidenceFromQr } from '#ipc-schema/evidence.ts';
import { decodeEvidenceFile, encodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import { FrameCutter } from '#ipc-schema/frame-cutter.ts';
import { invoiceDocumentSchema } from '#ipc-schema/invoice.ts';
import { decodeJson, jsonLimits } from '#ipc-schema/json.ts';
import { isMethodName, methods } from '#ipc-schema/methods.ts';
import { parseRecoveryTicket } from '#ipc-schema/recovery.ts';
import { check } from '#ipc-schema/schema.ts';
import { parseTicket } from '#ipc-schema/upstream.ts';
import { batches, entriesByBatch, hex, tokenCertificate, tokenId } from '#test/vectors/world.ts';
import { exactMeaning } from './exact-json.ts';
import { Changed, decoded, equal, type FuzzTarget, json, oneMeaning, oneSpelling, same, utf8 } from './target.ts';
import { vectorsOf } from './vector-files.ts';

const documents = entriesByBatch
  .flat()
  .filter(({ body }) => body[0] === 0x7b)
  .map(({ body }) => body);

const requests = [
  ['hello', { version: 1, client: 'acme-pos/4.2' }],
  ['authenticate', { terminal: 'till-1', nonce: 'ab'.repeat(32), mac: 'cd'.repeat(32) }],
  [
    'invoice.issue',
    {
      key: 'sale-1',
      template: 'retail',
      lines: [{ description: 'Čaj ☕', quantity: '1.5', unitPrice: '4.25', discount: '0.5', taxCode: 'S' }],
    },
  ],
  [
    'invoice.issue',
    {
      key: 'sale-2',
      template: 'retail',
      kind: 'credit-note',
      currency: 'GBP',
      soldAt: '2026-03-02T09:30:00Z',
      total: '2.55',
      wait: 'durable',
      brief: true,
      lines: [{ description: 'A', quantity: '1', unitPrice: '2.55', sku: 'X' }],
      corrects: { number: 'A000001', reason: 'returned' },
      buyer: { name: 'B', taxId: 'GB1', address: ['1 Street'], country: 'GB', reference: 'r' },
      payments: [{ method: 'cash', amount: '2.55' }],
      ext: { a: [1, { b: null }] },
    },
  ],
  ['invoice.get', { sequence: 7 }],
  ['invoice.find', {}],
  ['ledger.read', { fromBatch: 1, maxBytes: 65_536 }],
  ['session.login', { pin: '123456' }],
  ['events.subscribe', { events: ['standing'] }],
  ['terminal.enrol', { terminal: 'till-2', role: 'till' }],
] as const;

const frames = requests.map(([method, params], at) => utf8(encodeRequest(at, method, params).slice(0, -1)));

function judgeFrame(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const message = decodeFrame(input);
  switch (message.kind) {
    case 'malformed':
      if (message.error.code !== 'invalid-request' && message.error.code !== 'too-large') throw message.error;
      return 'refused';
    case 'request': {
      exactMeaning(input, {
        type: 'ukey',
        data: asSaid({ jsonrpc: '2.0', id: message.id, method: message.method, params: message.params }, input),
      });
      equal('a request', decodeFrame(utf8(encodeRequest(message.id, message.method, message.params).slice(0, -1))), message);
      if (isMethodName(message.method))
        decoded(() => check(methods[message.method as keyof typeof methods].params as never, message.params));
      return 'decoded';
    }
    default:
      return 'decoded';
  }
}

/** A request without params is read as one with `{}`; the text does not say so. */
function asSaid(data: { readonly params: object; readonly [name: string]: unknown }, input: Uint8Array): object {
  const said = JSON.parse(Buffer.from(input).toString('utf8')) as { readonly data: object };
  if ('params' in said.data) return data;
  const { params: _, ...rest } = data;
  return rest;
}

/** Frames cut from pieces are those that stand between the form feeds. */
function judgeCut(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const maxBytes = 1_000;
  const cutter = new FrameCutter();
  const cut: Buffer[] = [];
  const pieceBytes = 1 + ((input[0] ?? 0) % 97);
  const found = decoded(() => {
    for (let at = 0; at < input.length; at += pieceBytes) {
      cutter.push(Buffer.from(input.subarray(at, at + pieceBytes)));
      for (let frame = cutter.take(maxBytes); frame !== null; frame = cutter.take(maxBytes)) cut.push(frame);
    }
  });
  const whole = Buffer.from(input).toString('latin1').split('\f');
  const isTooLong = whole.some((frame) => frame.length > maxBytes);
  if ((found === null) !== isTooLong) throw new Changed('a frame within the limit is refused, or one beyond it taken');
  if (found === null) return 'refused';
  equal(
    'the frames',
    cut.map((frame) => frame.toString('latin1')),
    whole.slice(0, -1),
  );
  return 'decoded';
}

function judgeSeal(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const found = decoded(() => decodeSeal(input));
  if (found === null) return 'refused';
  const { sign1, seal } = found.value;
  same('a seal', encodeSign1(protectedHeader(sign1.algorithm, sign1.keyId), sealPayload(seal), sign1.signature), input);
  return 'decoded';
}

function judgeQr(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const text = Buffer.from(input).toString('latin1');
  const found = decoded(() => evidenceFromQr(text));
  if (found === null) return 'refused';
  const start = text.startsWith('UKEY1:') ? 'UKEY1:' : text.slice(0, text.indexOf('#') + 1);
  if (start + encodeBase32(found.value) !== text) throw new Changed('a QR text has two spellings');
  return 'decoded';
}

const evidenceFiles = vectorsOf('evidence.json')
  .slice(0, 2)
  .map((evidence) =>
    utf8(
      encodeEvidenceFile({
        document: Buffer.from(documents[0] ?? '').toString('utf8'),
        evidence: Buffer.from(evidence).toString('base64'),
        certificate: Buffer.from(tokenCertificate).toString('base64'),
        authorityCertificate: Buffer.from(tokenCertificate).toString('base64'),
      }),
    ),
  );

const events = [
  { event: 'handover' },
  { event: 'rollback-healed', foundBatch: 1, anchoredBatch: 2, healedToBatch: 3 },
  { event: 'continues', ledger: hex(tokenId), lastBatch: 4, lastSealHash: 'ab'.repeat(32), anchoredBatch: 5 },
  { event: 'succession', succession: 'AAEC' },
];

const ticket = { url: 'https://127.0.0.1:8443', tlsCertificate: null, authorityFingerprint: 'ab'.repeat(32), code: 'ABCD' };

function judgeDocument(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const found = decoded(() => check(invoiceDocumentSchema, decodeJson(input)));
  if (found === null) return 'refused';
  exactMeaning(input, found.value);
  return 'decoded';
}

export const contractTargets: readonly FuzzTarget[] = [
  {
    name: 'json',
    form: 'text',
    seeds: [
      ...documents,
      ...frames,
      utf8('[0,-1,1e5,0.1,{"a":{"b":[null,true,"\\u00e9\\ud83d\\ude00"]}}]'),
      utf8(`${'['.repeat(31)}${']'.repeat(31)}`),
    ],
    judge: (input) => {
      const found = decoded(() => decodeJson(input, jsonLimits));
      if (found === null) return 'refused';
      exactMeaning(input, found.value);
      return 'decoded';
    },
  },
  { name: 'frame', form: 'text', seeds: frames, judge: judgeFrame },
  {
    name: 'frames-in-pieces',
    form: 'text',
    seeds: [Buffer.concat(frames.flatMap((frame) => [frame, utf8('\f')])), utf8('\f\f\f')],
    judge: judgeCut,
  },
  { name: 'document', form: 'text', seeds: documents, judge: judgeDocument },
  {
    name: 'cbor',
    form: 'cbor',
    seeds: ['leaf.json', 'seal.json', 'upload.json'].flatMap((name) => vectorsOf(name)),
    judge: oneSpelling((input) => decodeCbor(input, 'it') as CborValue, encodeCbor),
  },
  {
    name: 'cose',
    form: 'cbor',
    seeds: [...vectorsOf('seal.json'), ...vectorsOf('ack.json')],
    judge: oneSpelling(
      (input) => decodeSign1(input, 'it'),
      ({ algorithm, keyId, payload, signature }) => encodeSign1(protectedHeader(algorithm, keyId), payload, signature),
    ),
  },
  { name: 'leaf', form: 'cbor', seeds: vectorsOf('leaf.json'), judge: oneSpelling(decodeLeaf, encodeLeaf) },
  {
    name: 'batch',
    form: 'cbor',
    seeds: [...batches.map(({ bytes }) => bytes), ...vectorsOf('batch.json')],
    judge: oneSpelling(decodeBatch, ({ sealBytes, entries }) => encodeBatch(sealBytes, joinEntries(entries.map(encodeEntry)))),
  },
  { name: 'seal', form: 'cbor', seeds: vectorsOf('seal.json'), judge: judgeSeal },
  { name: 'evidence', form: 'cbor', seeds: vectorsOf('evidence.json'), judge: oneSpelling(decodeEvidence, encodeEvidence) },
  { name: 'qr', form: 'bytes', seeds: vectorsOf('qr.json', 'text'), judge: judgeQr },
  {
    name: 'evidence-file',
    form: 'text',
    seeds: evidenceFiles,
    judge: oneMeaning(decodeEvidenceFile, (file) => utf8(encodeEvidenceFile(file))),
  },
  { name: 'admin-event', form: 'text', seeds: events.map(json), judge: oneMeaning(decodeAdminEvent, encodeAdminEvent) },
  {
    name: 'enrolment-ticket',
    form: 'text',
    seeds: [json({ format: 'ukey-enrolment-ticket/1', ...ticket, prefixes: ['A-'], issuer: 'GB1' })],
    judge: oneMeaning((input) => parseTicket(decodeJson(input)), json),
  },
  {
    name: 'recovery-ticket',
    form: 'text',
    seeds: [json({ format: 'ukey-recovery-ticket/1', ...ticket, tokenId: hex(tokenId) })],
    judge: oneMeaning((input) => parseRecoveryTicket(decodeJson(input)), json),
  },
];
