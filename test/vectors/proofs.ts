// Owns: the vectors of what a customer's paper carries: evidence and QR texts.
import type { CborValue } from '#ipc-schema/cbor.ts';
import { decodeSign1 } from '#ipc-schema/cose.ts';
import { encodeEvidence, qrText } from '#ipc-schema/evidence.ts';
import { otherSeal } from '#ipc-schema/spelling.ts';
import { arrayHex, bad, code, item, spellings } from './shape.ts';
import * as world from './world.ts';

const { hex, unhex } = world;

export function evidenceVectors(): unknown {
  const { evidence, entry } = world.evidenceOf(4);
  const other = world.evidenceOf(3);
  const { leaf, index, count, path, sealBytes } = evidence;
  const items = [leaf, index, count, path, sealBytes].map(item);
  const change = (name: string, at: number, to: CborValue) => ({
    ...bad(name, arrayHex(items, { [at]: item(to) })),
    body: hex(entry.body),
  });
  const [first = unhex(''), second = unhex('')] = path;
  return {
    description:
      'Evidence: CBOR [leaf, index, count, path, seal], verified with the public key of the token alone (SPKI, DER); with a body, the body too.',
    tokenKey: hex(world.spkiOf('token')),
    valid: [
      ...[1, 2, 3, 4, 5, 6].map((sequence) => {
        const { evidence, entry } = world.evidenceOf(sequence);
        return { name: `sequence ${sequence}`, bytes: hex(encodeEvidence(evidence)), body: hex(entry.body), sequence };
      }),
      {
        name: 'sequence 4, the other spelling of its signature',
        bytes: hex(encodeEvidence({ ...evidence, sealBytes: otherSeal(sealBytes) ?? sealBytes })),
        ...{ body: hex(entry.body), sequence: 4 },
      },
    ],
    invalid: [
      ...spellings(items).map((one) => ({ ...one, body: hex(entry.body) })),
      change('the leaf of another entry', 0, other.evidence.leaf),
      change('another index', 1, 0),
      change('index is the count', 1, 3),
      { ...bad('index in two bytes', arrayHex(items, { 1: '1801' })), body: hex(entry.body) },
      change('another count', 2, 4),
      change('no path', 3, []),
      change('path cut', 3, [first]),
      change('path too long', 3, [first, second, second]),
      change(
        'path of 21 hashes',
        3,
        Array.from({ length: 21 }, () => first),
      ),
      change('path in another order', 3, [second, first]),
      change('a hash of 31 bytes', 3, [first.subarray(1), second]),
      change('the seal of another batch', 4, world.batchAt(1).sealBytes),
      change('a seal signed by another key', 4, world.signed('stranger', decodeSign1(sealBytes, 'seal').payload)),
      { ...bad('the body of another document', arrayHex(items)), body: hex(other.entry.body) },
      { ...bad('a body with a space more', arrayHex(items)), body: `${hex(entry.body)}20` },
    ],
  };
}

export function qrVectors(): unknown {
  const bytes = encodeEvidence(world.evidenceOf(3).evidence);
  const plain = qrText(bytes, null);
  const badText = (name: string, text: string) => ({ name, text, code });
  return {
    description:
      'QR texts: `<verifyUrl>#<base32>` or `UKEY1:<base32>` (RFC 4648 §6, upper case, no padding) of evidence. short: base32 alone.',
    valid: [
      { name: 'without a URL', verifyUrl: null, text: plain, bytes: hex(bytes) },
      { name: 'with a URL', verifyUrl: world.charter.verifyUrl, text: qrText(bytes, world.charter.verifyUrl), bytes: hex(bytes) },
      ...['', '66', '666f', '666f6f', '666f6f62', '666f6f6261', '666f6f626172'].map((text) => ({
        name: `RFC 4648 §10: ${Buffer.from(text, 'hex').toString('latin1')}`,
        verifyUrl: null,
        text: qrText(unhex(text), null),
        bytes: text,
      })),
    ],
    invalid: [
      badText('no mark', plain.slice(6)),
      badText('another version', plain.replace('UKEY1:', 'UKEY2:')),
      badText('lower case', `UKEY1:${plain.slice(6).toLowerCase()}`),
      badText('padding', 'UKEY1:MZXW6==='),
      badText('a character too many', 'UKEY1:MZXW6A'),
      badText('stray bits', 'UKEY1:MZ'),
      badText('outside the alphabet', 'UKEY1:MZXW0'),
      badText('a space', 'UKEY1:MZXW6 '),
      badText('two fragments', `https://verify.example/#a#${plain.slice(6)}`),
      badText('too long', `UKEY1:${'A'.repeat(6_600)}`),
    ],
  };
}
