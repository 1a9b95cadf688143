// Owns: the vectors of seals: what is refused in the payload, in the protected header, in the signature and around them.
import { decodeSeal, sealPayload } from '#ipc-schema/batch.ts';
import type { CborValue } from '#ipc-schema/cbor.ts';
import { type Algorithm, decodeSign1, encodeSign1, keyIdOf, protectedHeader, toBeSigned } from '#ipc-schema/cose.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { otherSeal } from '#ipc-schema/spelling.ts';
import { arrayHex, type Bad, bad, item, spellings, versions } from './shape.ts';
import * as world from './world.ts';

const { hex, unhex } = world;
const { seal, sealBytes } = world.batchAt(1);
const { protectedBytes, payload, signature } = decodeSign1(sealBytes, 'seal');
const rsaTokenId = keyIdOf(world.publicKey('rsa'));
const keyId = item(world.tokenId);

/** Rightly signed by the token, so that only what is named can be what is wrong. */
const resigned = (header: Uint8Array, content: Uint8Array, key: world.KeyName = 'token'): Uint8Array =>
  encodeSign1(header, content, world.keptSignature(key, 'ES256', toBeSigned(header, content)));

/** (r, n - s) for (r, s): the same statement, which holds as well. */
function otherOf(bytes: Uint8Array): Uint8Array {
  const other = otherSeal(bytes);
  if (other === null) throw new Error('a seal of ES256 has two spellings');
  return other;
}

function shown(name: string, key: world.KeyName, bytes: Uint8Array): unknown {
  const decoded = decodeSeal(bytes);
  const { tokenId, root, previousSealHash, ...counts } = decoded.seal;
  const { sign1 } = decoded;
  return {
    name,
    tokenKey: hex(world.spkiOf(key)),
    bytes: hex(bytes),
    algorithm: sign1.algorithm,
    seal: { tokenId: hex(tokenId), ...counts, root: hex(root), previousSealHash: hex(previousSealHash) },
    protected: hex(sign1.protectedBytes),
    payload: hex(sign1.payload),
    signature: hex(sign1.signature),
    toBeSigned: hex(toBeSigned(sign1.protectedBytes, sign1.payload)),
    sealHash: hex(sha256(bytes)),
  };
}

function badPayloads(): Bad[] {
  const { tokenId, batchIndex, firstSequence, count, root, previousSealHash, sealedAtMs } = seal;
  const fields: CborValue[] = [1, tokenId, batchIndex, firstSequence, count, root, previousSealHash, sealedAtMs];
  const items = fields.map(item);
  const change = (name: string, at: number, to: string): Bad => bad(name, arrayHex(items, { [at]: to }));
  const payloads = [
    ...spellings(items),
    ...versions(items),
    change('token id of another key', 1, item(rsaTokenId)),
    change('token id of 15 bytes', 1, item(tokenId.subarray(1))),
    change('batch index 0', 2, '00'),
    change('first sequence 0', 3, '00'),
    change('first sequence out of range', 3, '1b001fffffffffffff'),
    change('count 0', 4, '00'),
    change('count 1025', 4, '190401'),
    change('root of 31 bytes', 5, item(root.subarray(1))),
    change('previous seal hash of 33 bytes', 6, item(new Uint8Array(33))),
    change('sealed beyond the year 9999', 7, item(253_402_300_800_000)),
  ];
  return payloads.map((one) => bad(`payload: ${one.name}`, resigned(protectedBytes, unhex(one.bytes))));
}

function badHeaders(): Bad[] {
  const header = (name: string, bytes: string): Bad => bad(`header: ${name}`, resigned(unhex(bytes), payload));
  return [
    header('nothing', ''),
    header('an empty map', 'a0'),
    header('in another order', `a204${keyId}0126`),
    header('a key twice', `a3012604${keyId}04${keyId}`),
    header('algorithm in two bytes', `a201380604${keyId}`),
    header('algorithm ES384', `a201382204${keyId}`),
    header('algorithm as text', `a201654553323536${`04${keyId}`}`),
    header('algorithm RS256 under a P-256 key', hex(protectedHeader('RS256', world.tokenId))),
    header('without key id', 'a10126'),
    header('with content type', `a30126030004${keyId}`),
    header('key id of 15 bytes', hex(protectedHeader('ES256', world.tokenId.subarray(1)))),
    header('key id as text', `a2012604${item('x'.repeat(16))}`),
    header('one byte left over', `${hex(protectedBytes)}00`),
  ];
}

function badSignatures(): Bad[] {
  const signedAs = (name: string, bytes: Uint8Array, content = payload): Bad =>
    bad(`signature: ${name}`, encodeSign1(protectedBytes, content, bytes));
  return [
    bad('signature: of another key, under its own key id', world.signed('stranger', payload)),
    bad('signature: of another key, under our key id', resigned(protectedBytes, payload, 'stranger')),
    signedAs('a bit flipped', signature.with(40, (signature[40] ?? 0) ^ 1)),
    signedAs('cut', signature.subarray(0, 63)),
    signedAs('zeros', new Uint8Array(64)),
    signedAs('none', new Uint8Array(0)),
    signedAs('a byte in front', Uint8Array.of(0, ...signature)),
    signedAs('under the payload of another seal', signature, sealPayload(world.batchAt(2).seal)),
  ];
}

function badWrappings(): Bad[] {
  const untagged = hex(sealBytes).slice(2);
  const [header, content, proof] = [item(protectedBytes), item(payload), item(signature)];
  return [
    bad('nothing', ''),
    bad('untagged', untagged),
    bad('tag in two bytes', `d812${untagged}`),
    bad('tagged twice', `d2d2${untagged}`),
    bad('tag of COSE_Sign', `d862${untagged}`),
    bad('unprotected header with a key id', `d284${header}a104${keyId}${content}${proof}`),
    bad('unprotected header as an array', `d284${header}80${content}${proof}`),
    bad('payload detached', `d284${header}a0f6${proof}`),
    bad('protected header not wrapped', `d284${hex(protectedBytes)}a0${content}${proof}`),
    bad('last byte cut off', sealBytes.subarray(0, -1)),
    bad('one byte left over', `${hex(sealBytes)}00`),
  ];
}

export function sealVectors(): unknown {
  const byRsa = (algorithm: Algorithm): Uint8Array => world.signed('rsa', sealPayload({ ...seal, tokenId: rsaTokenId }), algorithm);
  return {
    description:
      'Seals: COSE_Sign1 by the token; payload CBOR [1, tokenId, batchIndex, firstSequence, count, root, previousSealHash, sealedAtMs]. Keys are SPKI (DER).',
    tokenKey: hex(world.spkiOf('token')),
    valid: [
      ...world.batches.map((batch, at) => shown(`batch ${at + 1}, ES256`, 'token', batch.sealBytes)),
      ...world.batches.map((batch, at) => shown(`batch ${at + 1}, the other spelling of its signature`, 'token', otherOf(batch.sealBytes))),
      shown('RS256', 'rsa', byRsa('RS256')),
      shown('PS256', 'rsa', byRsa('PS256')),
    ],
    invalid: [...badPayloads(), ...badHeaders(), ...badSignatures(), ...badWrappings()],
  };
}
