// Owns: Merkle tree hashes and inclusion proofs of RFC 9162 §2.1, over leaf hashes. Pure.
// Invariants: SHA-256; leaf hash = SHA-256(0x00 || leaf), node = SHA-256(0x01 || left || right); a path has at most pathMaxLength hashes.
import { hash } from 'node:crypto';
import { UkeyError } from './errors.ts';

export const hashBytes = 32;
/** Enough for 2^20 leaves in a batch; a batch holds far fewer. */
export const pathMaxLength = 20;

export function sha256(bytes: Uint8Array): Uint8Array {
  // By way of a text, and into the pool: a buffer of the hash's own costs more than the hash.
  return Buffer.from(hash('sha256', bytes, 'binary'), 'binary');
}

export function leafHash(leaf: Uint8Array): Uint8Array {
  const input = Buffer.allocUnsafe(leaf.length + 1);
  input[0] = 0;
  input.set(leaf, 1);
  return sha256(input);
}

function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  const input = Buffer.allocUnsafe(1 + 2 * hashBytes);
  input[0] = 1;
  input.set(left, 1);
  input.set(right, 1 + hashBytes);
  return sha256(input);
}

/** The levels of the tree, leaves first, root last. A last node without a partner moves up as it is. */
export function buildTree(leafHashes: readonly Uint8Array[]): readonly (readonly Uint8Array[])[] {
  if (leafHashes.length === 0) return [[sha256(new Uint8Array(0))]]; // RFC 9162 §2.1.1: the empty tree
  const levels: (readonly Uint8Array[])[] = [leafHashes];
  let level = leafHashes;
  while (level.length > 1) {
    const next: Uint8Array[] = [];
    for (let at = 0; at < level.length; at += 2) {
      const left = level[at] as Uint8Array;
      const right = level[at + 1];
      next.push(right === undefined ? left : nodeHash(left, right));
    }
    levels.push(next);
    level = next;
  }
  return levels;
}

export function rootOf(tree: readonly (readonly Uint8Array[])[]): Uint8Array {
  return (tree.at(-1) as readonly Uint8Array[])[0] as Uint8Array;
}

/** Inclusion proof of the leaf at `index` (RFC 9162 §2.1.3.1). Throws internal when there is no such leaf. */
export function inclusionPath(tree: readonly (readonly Uint8Array[])[], index: number): Uint8Array[] {
  if (tree[0]?.[index] === undefined) throw new UkeyError('internal', 'no such leaf in the tree');
  const path: Uint8Array[] = [];
  let at = index;
  for (const level of tree.slice(0, -1)) {
    const sibling = level[at ^ 1];
    if (sibling !== undefined) path.push(sibling);
    at >>= 1;
  }
  return path;
}

/** Root that leaf, index, count and path lead to (RFC 9162 §2.1.3.2), or null when the path does not fit the tree's shape. */
export function rootFromPath(leaf: Uint8Array, index: number, count: number, path: readonly Uint8Array[]): Uint8Array | null {
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(count) || index < 0 || index >= count || path.length > pathMaxLength)
    return null;
  let node = index;
  let last = count - 1;
  let root = leaf;
  for (const sibling of path) {
    if (last === 0 || sibling.length !== hashBytes) return null;
    if (node % 2 === 1 || node === last) {
      root = nodeHash(sibling, root);
      while (node % 2 === 0 && node !== 0) {
        node = Math.floor(node / 2);
        last = Math.floor(last / 2);
      }
    } else {
      root = nodeHash(root, sibling);
    }
    node = Math.floor(node / 2);
    last = Math.floor(last / 2);
  }
  return last === 0 ? root : null;
}
