// Owns: the vectors of successions: a ledger that two more keys go on with, and what a walk along it refuses.
// Each batch is given with the number of valid batches before it: whoever has walked those must take it, or refuse it.
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { encodeBatch, joinEntries, sealHashOf, sealPayload } from '#ipc-schema/batch.ts';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { bodyHashOf, type Entry, encodeEntry, encodeLeaf } from '#ipc-schema/entry.ts';
import { buildTree, leafHash, rootOf, sha256 } from '#ipc-schema/merkle.ts';
import type { Succession } from '#ipc-schema/succession.ts';
import { code } from './shape.ts';
import * as world from './world.ts';

const { hex } = world;
const sealedAtMs = Date.parse('2026-03-04T12:00:00Z');
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');

interface Head {
  readonly batchIndex: number;
  readonly nextSequence: number;
  readonly sealHash: Uint8Array;
}

interface Made extends Head {
  readonly bytes: Uint8Array;
}

function entry(sequence: number, body: Uint8Array): Entry {
  const none = { number: null, currency: null, total: null, taxTotal: null };
  const leaf = { kind: 'admin' as const, sequence, issuedAtMs: sealedAtMs, issuerTaxId: world.charter.issuer.taxId, ...none };
  return { leaf: encodeLeaf({ ...leaf, bodyHash: bodyHashOf(body) }), body };
}

function batch(head: Head, key: world.KeyName, bodies: readonly Uint8Array[]): Made {
  const entries = bodies.map((body, at) => entry(head.nextSequence + at, body));
  const root = rootOf(buildTree(entries.map(({ leaf }) => leafHash(leaf))));
  const batchIndex = head.batchIndex + 1;
  const place = { batchIndex, firstSequence: head.nextSequence, count: entries.length, previousSealHash: head.sealHash };
  const algorithm = key === 'rsa' ? 'PS256' : 'ES256';
  const sealBytes = world.signed(key, sealPayload({ tokenId: world.tokenId, ...place, root, sealedAtMs }), algorithm);
  const bytes = encodeBatch(sealBytes, joinEntries(entries.map(encodeEntry)));
  return { bytes, batchIndex, nextSequence: head.nextSequence + entries.length, sealHash: sealHashOf(sealBytes) };
}

type Certified = keyof typeof world.successorCertificates;

function succession(
  head: Head,
  certificate: Certified,
  serial: number,
  change: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  const content: Succession = {
    format: 'ukey-succession/1',
    tokenId: hex(world.tokenId),
    serial,
    fromBatch: head.batchIndex + 1,
    previousSealHash: hex(head.sealHash),
    certificate: base64(world.successorCertificates[certificate]),
    reason: 'token-lost',
    issuedAt: '2026-03-04T11:00:00Z',
  };
  return { ...content, ...change };
}

/** Signed by the authority unless said, as the body of an admin entry. */
function carried(content: Record<string, unknown>, key: world.KeyName = 'authority'): Uint8Array {
  const signed = world.signed(key, Buffer.from(JSON.stringify(content), 'utf8'));
  return encodeAdminEvent({ event: 'succession', succession: base64(signed) });
}

export function successionVectors(): unknown {
  const last = world.batchAt(3);
  const third: Head = {
    batchIndex: 3,
    nextSequence: last.seal.firstSequence + last.seal.count,
    sealHash: sha256(last.sealBytes),
  };
  const note = encodeAdminEvent({ event: 'rollback-healed', foundBatch: 1, anchoredBatch: 2, healedToBatch: 2 });
  const fourth = batch(third, 'successor', [carried(succession(third, 'successor', 1)), note]);
  const fifth = batch(fourth, 'successor', [note]);
  const sixth = batch(fifth, 'rsa', [carried(succession(fifth, 'rsa', 3))]);
  const shown = (name: string, bytes: Uint8Array, before: number, keyId: Uint8Array): unknown => ({
    name,
    bytes: hex(bytes),
    before,
    keyId: hex(keyId),
  });
  const own = (name: world.KeyName): Uint8Array => keyIdOf(world.publicKey(name));
  const bad = (name: string, made: Made, before = 3): unknown => ({ name, bytes: hex(made.bytes), before, code });
  const at4 = (name: string, change: Readonly<Record<string, unknown>>): unknown =>
    bad(name, batch(third, 'successor', [carried(succession(third, 'successor', 1, change))]));
  const certified = (name: string, certificate: Certified): unknown =>
    bad(name, batch(third, 'successor', [carried(succession(third, certificate, 1))]));
  return {
    description:
      'A ledger that two more keys go on with, walked from its first certificate under the authority; `before`: how many of the valid batches stand before this one.',
    authorityKey: hex(world.spkiOf('authority')),
    certificate: hex(world.tokenCertificate),
    tokenId: hex(world.tokenId),
    valid: [
      ...[1, 2, 3].map((index) => shown(`batch ${index}, by the first key`, world.batchAt(index).bytes, index - 1, own('token'))),
      shown('batch 4, the first by the second key', fourth.bytes, 3, own('successor')),
      shown('batch 5, by the second key', fifth.bytes, 4, own('successor')),
      shown('batch 6, the first by the third key (RSA); one serial was never used', sixth.bytes, 5, own('rsa')),
    ],
    invalid: [
      bad('another key without a succession', batch(third, 'successor', [note])),
      bad('the succession as the second entry', batch(third, 'successor', [note, carried(succession(third, 'successor', 1))])),
      bad('the succession of another key', batch(third, 'stranger', [carried(succession(third, 'successor', 1))])),
      bad('a succession that the first key signed', batch(third, 'successor', [carried(succession(third, 'successor', 1), 'token')])),
      certified('a certificate of another ledger', 'foreign'),
      certified('a certificate that signs itself', 'selfMade'),
      at4('another ledger', { tokenId: '00'.repeat(16) }),
      at4('serial 0', { serial: 0 }),
      at4('a later batch', { fromBatch: 5 }),
      at4('an earlier batch', { fromBatch: 3 }),
      at4('another seal before it', { previousSealHash: '00'.repeat(32) }),
      at4('another format', { format: 'ukey-succession/2' }),
      at4('a reason of another list', { reason: 'sold' }),
      at4('a member too many', { note: 'x' }),
      bad('the first key after its turn', batch(fourth, 'token', [note]), 4),
      bad('the first key after its turn, with the succession', batch(fourth, 'token', [carried(succession(fourth, 'successor', 2))]), 4),
      bad('a serial that was there before', batch(fifth, 'rsa', [carried(succession(fifth, 'rsa', 1))]), 5),
      bad('the second key after its turn', batch(sixth, 'successor', [note]), 6),
    ],
  };
}
