// Owns: the vectors of what a ledger is made of: Merkle paths, leaves and batches.
import type { CborValue } from '#ipc-schema/cbor.ts';
import { decodeLeaf } from '#ipc-schema/entry.ts';
import { buildTree, inclusionPath, leafHash, rootOf, sha256 } from '#ipc-schema/merkle.ts';
import { arrayHex, type Bad, bad, code, item, spellings, versions } from './shape.ts';
import * as world from './world.ts';

const { hex, unhex } = world;

export function merkleVectors(): unknown {
  const leaves = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f'];
  const hashes = leaves.map((leaf) => leafHash(unhex(leaf)));
  const trees = Array.from({ length: leaves.length + 1 }, (_, size) => buildTree(hashes.slice(0, size)));
  const path = (size: number, index: number): string[] => inclusionPath(trees[size] ?? [], index).map(hex);
  const root = (size: number): string => hex(rootOf(trees[size] ?? []));
  const leaf = (index: number): string => leaves[index] ?? '';
  const proof = (name: string, size: number, index: number) => ({
    name,
    leaf: leaf(index),
    index,
    count: size,
    path: path(size, index),
    root: root(size),
  });
  const base = proof('', 7, 4);
  const [first = '', second = ''] = base.path;
  return {
    description:
      'Merkle trees of RFC 9162 §2.1 over the leaves of the certificate-transparency reference vectors; an invalid path leads elsewhere.',
    leaves,
    roots: trees.map((_, size) => ({ count: size, root: root(size) })),
    valid: Array.from({ length: leaves.length }, (_, at) => at + 1).flatMap((size) =>
      Array.from({ length: size }, (_, index) => proof(`leaf ${index} of ${size}`, size, index)),
    ),
    invalid: [
      { ...base, name: 'another index', index: 5, code },
      { ...base, name: 'index is the count', index: 7, code },
      { ...base, name: 'another count', count: 5, code },
      { ...base, name: 'count of one', index: 0, count: 1, code },
      { ...base, name: 'another leaf', leaf: '3032', code },
      { ...base, name: 'no path', path: [], code },
      { ...base, name: 'path cut', path: base.path.slice(0, -1), code },
      { ...base, name: 'path too long', path: [...base.path, first], code },
      { ...base, name: 'path in another order', path: [second, first, ...base.path.slice(2)], code },
      { ...base, name: 'a hash of 31 bytes', path: [first.slice(2), second, ...base.path.slice(2)], code },
      { ...base, name: 'another root', root: root(8), code },
    ],
  };
}

export function leafVectors(): unknown {
  const { leaf } = world.evidenceOf(3).evidence;
  const parsed = decodeLeaf(leaf);
  const fields: CborValue[] = [
    1,
    1,
    3,
    parsed.number,
    parsed.issuedAtMs,
    parsed.issuerTaxId,
    parsed.currency,
    parsed.total,
    parsed.taxTotal,
    parsed.bodyHash,
  ];
  const items = fields.map(item);
  const view = (sequence: number) => {
    const bytes = world.evidenceOf(sequence).evidence.leaf;
    const { bodyHash, ...rest } = decodeLeaf(bytes);
    return {
      name: `${rest.kind} ${sequence}`,
      bytes: hex(bytes),
      leaf: { ...rest, bodyHash: hex(bodyHash) },
      leafHash: hex(leafHash(bytes)),
    };
  };
  const change = (name: string, at: number, to: string): Bad => bad(name, arrayHex(items, { [at]: to }));
  return {
    description:
      'Leaves: CBOR [1, kind, sequence, number|null, issuedAtMs, issuerTaxId, currency|null, total|null, taxTotal|null, bodyHash].',
    valid: [1, 3, 4, 5, 6].map(view),
    invalid: [
      ...spellings(items),
      ...versions(items),
      change('kind 0', 1, '00'),
      change('kind 10', 1, '0a'),
      change('sequence 0', 2, '00'),
      change('sequence -1', 2, '20'),
      change('sequence as half float 0.0', 2, 'f90000'),
      change('sequence 2^53', 2, '1b0020000000000000'),
      change('sequence as bignum', 2, 'c24103'),
      change('number that is not UTF-8', 3, '6341ff31'),
      change('number with an overlong character', 3, '6341c0b1'),
      change('number with a surrogate', 3, '63eda080'),
      change('number as text of indefinite length', 3, '7f61416131ff'),
      change('number as bytes', 3, '424131'),
      change('number undefined', 3, 'f7'),
      change('number null', 3, 'f6'),
      change('instant beyond the year 9999', 4, item(253_402_300_800_000)),
      change('tax id null', 5, 'f6'),
      change('currency null', 6, 'f6'),
      change('total null', 7, 'f6'),
      change('total as float', 7, 'fb402e99999999999a'),
      change('total negative', 7, item('-15.30')),
      change('total with exponent', 7, item('1e2')),
      change('total with a leading zero', 7, item('015.30')),
      change('total of 16 digits', 7, item('1234567890123456.00')),
      change('tax total true', 8, 'f5'),
      change('body hash of 31 bytes', 9, item(parsed.bodyHash.subarray(1))),
      change('body hash as text', 9, item('x'.repeat(32))),
      bad('charter with a total', arrayHex(items, { 1: '06' })),
      bad('longer than 512 bytes', arrayHex(items, { 5: item('x'.repeat(500)) })),
    ],
  };
}

export function batchVectors(): unknown {
  const start = { batchIndex: 0, nextSequence: 1, sealHash: hex(sha256(world.tokenCertificate)) };
  const heads = world.batches.map(({ seal, sealBytes }) => ({
    batchIndex: seal.batchIndex,
    nextSequence: seal.firstSequence + seal.count,
    sealHash: hex(sha256(sealBytes)),
  }));
  const second = world.batchAt(2);
  const head = heads[0] ?? start;
  const entry = ({ leaf, body }: { leaf: Uint8Array; body: Uint8Array }): string => arrayHex([item(leaf), item(body)]);
  const [a = '', b = '', c = ''] = second.entries.map(entry);
  const seal = item(second.sealBytes);
  const other = entry(world.evidenceOf(6).entry);
  const changedBody = entry({ leaf: second.entries[0]?.leaf ?? unhex(''), body: world.evidenceOf(6).entry.body });
  const behind = (name: string, bytes: Uint8Array | string, after = head) => ({ ...bad(name, bytes), head: after });
  return {
    description:
      'Batches: CBOR [seal, [[leaf, body], …]], each verified behind the head that the batch before left; the first behind SHA-256 of the certificate.',
    tokenKey: hex(world.spkiOf('token')),
    certificate: hex(world.tokenCertificate),
    valid: world.batches.map((batch, at) => ({
      name: `batch ${at + 1}`,
      head: at === 0 ? start : heads[at - 1],
      bytes: hex(batch.bytes),
      sequences: batch.entries.map((_, index) => batch.seal.firstSequence + index),
      headAfter: heads[at],
    })),
    invalid: [
      ...spellings([seal, arrayHex([a, b, c])]).map((one) => behind(one.name, one.bytes)),
      behind('the first batch again', world.batchAt(1).bytes),
      behind('a batch skipped', world.batchAt(3).bytes),
      behind('behind another seal', second.bytes, { ...head, sealHash: start.sealHash }),
      behind('at another sequence', second.bytes, { ...head, nextSequence: 4 }),
      behind('an entry dropped', arrayHex([seal, arrayHex([a, b])])),
      behind('an entry added', arrayHex([seal, arrayHex([a, b, c, other])])),
      behind('two entries swapped', arrayHex([seal, arrayHex([b, a, c])])),
      behind('an entry of another batch', arrayHex([seal, arrayHex([a, b, other])])),
      behind('another body', arrayHex([seal, arrayHex([changedBody, b, c])])),
      behind('no entries', arrayHex([seal, '80'])),
      behind('entries not in an array', arrayHex([seal, 'f6'])),
      behind('an entry of three fields', arrayHex([seal, arrayHex([`83${a.slice(2)}f6`, b, c])])),
      behind('the seal of another batch', arrayHex([item(world.batchAt(1).sealBytes), arrayHex([a, b, c])])),
    ],
  };
}
