// Owns: reading the vectors of test/vectors as a stranger would: from the files alone.
import { readFileSync } from 'node:fs';

export interface VectorFile<Valid, Invalid = { name: string; bytes: string; code: string }> {
  readonly description: string;
  readonly valid: readonly Valid[];
  readonly invalid: readonly Invalid[];
}

export function readVectorText(name: string): string {
  return readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8');
}

/** The caller says what it expects to find; the test fails on what is missing. */
export function readVectors<Valid, Invalid = { name: string; bytes: string; code: string }, Shared = unknown>(
  name: string,
): VectorFile<Valid, Invalid> & Shared {
  return JSON.parse(readVectorText(name)) as VectorFile<Valid, Invalid> & Shared;
}
