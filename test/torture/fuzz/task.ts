// Owns: what crosses between the part that fuzzes decoders and its thread.
import type { Tally } from './fuzzing.ts';

export interface FuzzTask {
  readonly seed: number;
  /** Mutated inputs of each target. */
  readonly inputs: number;
  /** The faulty decoders instead of the product's. */
  readonly controls: boolean;
  /** One Int32: moves with each input. */
  readonly beat: SharedArrayBuffer;
  /** One target alone, or null. */
  readonly only: string | null;
}

export type FuzzNews =
  | { readonly kind: 'begun'; readonly target: string }
  | { readonly kind: 'ended'; readonly target: string; readonly tally: Tally }
  | { readonly kind: 'done' };
