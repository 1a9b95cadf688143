import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { buildTree, inclusionPath, leafHash, pathMaxLength, rootFromPath, rootOf, sha256 } from '#ipc-schema/merkle.ts';
import { refusal } from '#test/support/refusal.ts';

const seed = Number(process.env['SEED'] ?? 20_260_302);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'));

// The reference vectors of the certificate-transparency implementations (RFC 6962, the same trees as RFC 9162 §2.1).
const referenceLeaves = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f'];
const referenceRoots = [
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
];
const referencePaths = [
  { index: 0, count: 1, path: [] },
  {
    index: 0,
    count: 8,
    path: [
      '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7',
      '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
      '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4',
    ],
  },
  {
    index: 5,
    count: 8,
    path: [
      'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
      'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0',
      'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
    ],
  },
  { index: 2, count: 3, path: ['fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125'] },
  {
    index: 1,
    count: 5,
    path: [
      '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
      '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e',
      'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b',
    ],
  },
];

const referenceHashes = referenceLeaves.map((leaf) => leafHash(unhex(leaf)));

/** MTH by its recursive definition (RFC 9162 §2.1.1), written apart from the code under test. */
function definedRoot(leaves: readonly Uint8Array[]): Uint8Array {
  const [first] = leaves;
  if (first === undefined) return sha256(new Uint8Array(0));
  if (leaves.length === 1) return sha256(Buffer.concat([Uint8Array.of(0), first]));
  const split = 2 ** Math.floor(Math.log2(leaves.length - 1));
  return sha256(Buffer.concat([Uint8Array.of(1), definedRoot(leaves.slice(0, split)), definedRoot(leaves.slice(split))]));
}

/** PATH by its recursive definition (RFC 9162 §2.1.3.1). */
function definedPath(index: number, leaves: readonly Uint8Array[]): Uint8Array[] {
  if (leaves.length === 1) return [];
  const split = 2 ** Math.floor(Math.log2(leaves.length - 1));
  const [left, right] = [leaves.slice(0, split), leaves.slice(split)];
  return index < split ? [...definedPath(index, left), definedRoot(right)] : [...definedPath(index - split, right), definedRoot(left)];
}

const leavesOf = (count: number): Uint8Array[] => Array.from({ length: count }, (_, at) => Uint8Array.of(at, count));

describe('a Merkle tree', () => {
  it.each(referenceRoots.map((root, count) => [count, root] as const))(
    'of the first %i reference leaves has the published root',
    (count, root) => {
      expect(hex(rootOf(buildTree(referenceHashes.slice(0, count))))).toBe(root);
    },
  );

  it.each(referencePaths)('has the published path of leaf $index of $count', ({ index, count, path }) => {
    const tree = buildTree(referenceHashes.slice(0, count));
    expect(inclusionPath(tree, index).map(hex)).toEqual(path);
    const leaf = referenceHashes[index] ?? unhex('');
    expect(hex(rootFromPath(leaf, index, count, path.map(unhex)) ?? unhex(''))).toBe(referenceRoots[count]);
  });

  it('agrees with the definition for every leaf of every size up to 70', () => {
    for (let count = 1; count <= 70; count++) {
      const leaves = leavesOf(count);
      const hashes = leaves.map(leafHash);
      const tree = buildTree(hashes);
      const root = hex(rootOf(tree));
      expect(root).toBe(hex(definedRoot(leaves)));
      for (let index = 0; index < count; index++) {
        const path = inclusionPath(tree, index);
        expect(path.map(hex)).toEqual(definedPath(index, leaves).map(hex));
        expect(hex(rootFromPath(hashes[index] ?? unhex(''), index, count, path) ?? unhex(''))).toBe(root);
      }
    }
  });

  it('leads nowhere else: no other index, count or path gives the root, for every size up to 33', () => {
    let tried = 0;
    for (let count = 1; count <= 33; count++) {
      const hashes = leavesOf(count).map(leafHash);
      const tree = buildTree(hashes);
      const root = hex(rootOf(tree));
      const leads = (leaf: Uint8Array, index: number, size: number, path: readonly Uint8Array[]): boolean => {
        tried++;
        const end = rootFromPath(leaf, index, size, path);
        return end !== null && hex(end) === root;
      };
      for (let index = 0; index < count; index++) {
        const leaf = hashes[index] ?? unhex('');
        const path = inclusionPath(tree, index);
        for (let other = 0; other < count + 2; other++) if (other !== index) expect(leads(leaf, other, count, path)).toBe(false);
        expect(leads(leaf, index, count, [...path, leaf])).toBe(false);
        expect(leads(leafHash(Uint8Array.of(99)), index, count, path)).toBe(false);
        if (path.length > 0) expect(leads(leaf, index, count, path.slice(0, -1))).toBe(false);
        for (const [at, step] of path.entries()) {
          expect(leads(leaf, index, count, path.with(at, step.with(at, (step[at] ?? 0) ^ 0x80)))).toBe(false);
          expect(leads(leaf, index, count, path.with(at, step.subarray(1)))).toBe(false);
        }
      }
    }
    expect(tried).toBeGreaterThan(10_000);
  });

  it('refuses indexes and counts that are none, and paths too long', () => {
    const leaf = leafHash(unhex('00'));
    for (const [index, count] of [
      [-1, 1],
      [1, 1],
      [0, 0],
      [0.5, 1],
      [0, 1.5],
      [Number.NaN, 1],
      [0, 2 ** 53],
    ] as const) {
      expect(rootFromPath(leaf, index, count, [])).toBeNull();
    }
    expect(
      rootFromPath(
        leaf,
        0,
        2 ** 21,
        Array.from({ length: pathMaxLength + 1 }, () => leaf),
      ),
    ).toBeNull();
    refusal(() => inclusionPath(buildTree([leaf]), 1), 'internal');
    refusal(() => inclusionPath(buildTree([leaf]), -1), 'internal');
  });

  it(`holds for trees of any size up to a thousand (seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1_024 }), fc.nat(), (count, pick) => {
        const leaves = Array.from({ length: count }, (_, at) => Uint8Array.of(at >> 8, at & 255));
        const tree = buildTree(leaves.map(leafHash));
        const index = pick % count;
        const path = inclusionPath(tree, index);
        expect(path.length).toBeLessThanOrEqual(Math.ceil(Math.log2(count)));
        expect(rootFromPath(leafHash(leaves[index] ?? unhex('')), index, count, path)).toEqual(rootOf(tree));
      }),
      { seed, numRuns: 60 },
    );
  });

  it('keeps leaves and nodes apart: a node as a leaf has another hash', () => {
    const [a, b] = [leafHash(unhex('01')), leafHash(unhex('02'))];
    const tree = buildTree([a, b]);
    expect(hex(leafHash(Buffer.concat([a, b])))).not.toBe(hex(rootOf(tree)));
  });
});
