// Owns: the test vectors, valid and invalid, that any language can read: `node test/vectors/make.ts` writes *.json beside it.
// Form of each file: {description, <shared inputs>, valid: [{name, …}], invalid: [{name, …, code}]}; byte strings are lower-case hex.
// Invariants: a second run writes the same bytes (world.ts keeps random signatures); a test compares, and another reads every vector.
import { writeFileSync } from 'node:fs';
import { documentVectors, errorVectors, handshakeVectors } from './documents.ts';
import { batchVectors, leafVectors, merkleVectors } from './ledger.ts';
import { lineVectors } from './line.ts';
import { evidenceVectors, qrVectors } from './proofs.ts';
import { sealVectors } from './seals.ts';
import { successionVectors } from './successions.ts';
import { fixed } from './world.ts';

/** All files by name, as their texts. */
export function makeVectors(): Record<string, string> {
  const files: Record<string, unknown> = {
    'merkle.json': merkleVectors(),
    'leaf.json': leafVectors(),
    'seal.json': sealVectors(),
    'batch.json': batchVectors(),
    'succession.json': successionVectors(),
    'evidence.json': evidenceVectors(),
    'qr.json': qrVectors(),
    ...lineVectors(),
    ...documentVectors(),
    'errors.json': errorVectors(),
    'handshake.json': handshakeVectors(),
    'fixed.json': fixed, // last: by now every signature is in it
  };
  return Object.fromEntries(Object.entries(files).map(([name, value]) => [name, `${JSON.stringify(value, null, 1)}\n`]));
}

if (import.meta.main) {
  for (const [name, text] of Object.entries(makeVectors())) writeFileSync(new URL(name, import.meta.url), text);
}
