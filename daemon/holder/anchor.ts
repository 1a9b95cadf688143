// Owns: the anchor: what the KEY remembers of its ledger, so that an older FLASH that is put back is known for what it is.
// Two private data objects in turn, `anchor-0` and `anchor-1`: CBOR [1, store id, mount epoch, batch, seal hash]; the higher epoch, then batch, rules.
// Invariants: only what is durable is anchored, so a crash never makes a rollback of an honest FLASH; written at mounting, at a clean close and now and
// then between signatures; never while a till waits for one. A KEY without data objects has none: then only the server knows.
import { decodeCbor, encodeCbor, FieldReader } from '#ipc-schema/cbor.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { hashBytes } from '#ipc-schema/merkle.ts';
import type { Token } from '#token/token.ts';

const names = ['anchor-0', 'anchor-1'] as const;
/** The window: at most so much is issued that an older FLASH may lack without the KEY's knowing. Each writing takes some ms of the chip. */
export const anchorEveryMs = 60_000;
export const anchorEveryBatches = 256;
/** Never more often, however busy it is. */
export const anchorPauseMs = 10_000;

export interface Anchor {
  readonly storeId: Uint8Array;
  readonly mountEpoch: number;
  /** Newest batch that was durable; 0: none. */
  readonly batchIndex: number;
  /** SHA-256 of its seal; of the enrolment certificate when there is none. */
  readonly sealHash: Uint8Array;
}

/** The newest of both, or null where there is none. The token is logged in. */
export function readAnchor(token: Token): Anchor | null {
  const { newest } = survey(token);
  return newest;
}

/** How far a ledger was durable when it was open here last, to the last batch: fresher than an anchor, and gone with holder and front. */
export interface Seen extends Anchor {
  /** Of the KEY in force: one that goes on with a copy begins with epochs of its own. */
  readonly keyId: Uint8Array;
}

/** Each opening of a store for writing has a mount epoch of its own. Pure. */
export const isSameOpening = (a: Anchor, b: Anchor): boolean => a.mountEpoch === b.mountEpoch && isSame(a.storeId, b.storeId);

/** What was seen, where it was seen of the store that is there and under the KEY that is there: its epochs mean nothing to another. Pure. */
export function seenOf(seen: Seen | null, storeId: Uint8Array, keyId: Uint8Array): Seen | null {
  return seen !== null && isSame(seen.storeId, storeId) && isSame(seen.keyId, keyId) ? seen : null;
}

/** The newer of what KEY and service have seen of the store that is there, which is of this KEY. Pure. */
export function newestAnchor(onKey: Anchor | null, seen: Seen | null, storeId: Uint8Array, keyId: Uint8Array): Anchor | null {
  const ours = seenOf(seen, storeId, keyId);
  if (ours === null || onKey === null) return ours ?? onKey;
  return isSame(onKey.storeId, storeId) && isNewer(ours, onKey) ? ours : onKey;
}

/** For formatting: what the KEY remembers of another store is void. Before a crash can leave a store that it does not know. */
export function bindAnchor(token: Token, storeId: Uint8Array): void {
  const anchor = encodeAnchor({ storeId, mountEpoch: 0, batchIndex: 0, sealHash: new Uint8Array(hashBytes) });
  for (const name of names) token.writeObject(name, anchor);
}

export interface AnchorDue {
  readonly batches: number;
  readonly sinceMs: number;
}

/** Pure. */
export function isAnchorDue({ batches, sinceMs }: AnchorDue): boolean {
  if (batches <= 0) return false;
  return sinceMs >= anchorEveryMs || (batches >= anchorEveryBatches && sinceMs >= anchorPauseMs);
}

export interface Findings {
  readonly storeId: Uint8Array;
  readonly mountEpoch: number;
  readonly lastBatch: number;
}

/** Throws `halted` when what was found is older than what was seen, or another store. Pure. */
export function judgeAge(anchor: Anchor, found: Findings): void {
  if (Buffer.compare(anchor.storeId, found.storeId) !== 0) throw rollback('the FLASH holds another store than the KEY has last written');
  if (found.lastBatch < anchor.batchIndex)
    throw rollback(`the FLASH ends at batch ${found.lastBatch}, and batch ${anchor.batchIndex} has been seen`);
  if (found.mountEpoch < anchor.mountEpoch)
    throw rollback(`the FLASH was opened ${found.mountEpoch} times, and ${anchor.mountEpoch} openings have been seen`);
}

/** Throws `halted`: at the anchored place stands another batch. Pure. */
export function judgeSeal(anchor: Anchor, sealHash: Uint8Array): void {
  if (Buffer.compare(anchor.sealHash, sealHash) === 0) return;
  throw rollback(`batch ${anchor.batchIndex} on the FLASH is another one than the KEY has sealed last`);
}

const whatToDo =
  'Nothing was issued. Put back the FLASH that was written last, or give it its mirror; if neither is there any more, ukeyctl store resume brings this one up to date.';

function rollback(what: string): UkeyError {
  return new UkeyError('halted', `rollback: ${what}. ${whatToDo}`, { action: whatToDo });
}

/** Writes the anchor of one opened store. */
export class AnchorWriter {
  readonly #token: Token;
  readonly #origin: Pick<Anchor, 'storeId' | 'mountEpoch'>;
  readonly #note: (what: string, error: unknown) => void;
  /** Which of the two is written next: not the newest. */
  #place: 0 | 1 | null = null;
  #batchIndex = -1;
  #writtenMs = 0;
  /** The KEY has no data objects. */
  #isImpossible = false;

  constructor(token: Token, origin: Pick<Anchor, 'storeId' | 'mountEpoch'>, note: (what: string, error: unknown) => void) {
    this.#token = token;
    this.#origin = origin;
    this.#note = note;
  }

  isDue(batchIndex: number, nowMs: number): boolean {
    return isAnchorDue({ batches: batchIndex - this.#batchIndex, sinceMs: nowMs - this.#writtenMs });
  }

  /** The batch is durable. A KEY that does not take it is noted and asked again later: the invoices are safe without. */
  write(batchIndex: number, sealHash: Uint8Array, nowMs: number): void {
    if (this.#isImpossible || batchIndex === this.#batchIndex) return;
    this.#writtenMs = nowMs;
    try {
      this.#place ??= survey(this.#token).place === 0 ? 1 : 0;
      const value = encodeAnchor({ ...this.#origin, batchIndex, sealHash });
      this.#isImpossible = !this.#token.writeObject(names[this.#place], value);
      // The other one is still the older: a crash in the middle of the next writing leaves this.
      this.#place = this.#place === 0 ? 1 : 0;
      this.#batchIndex = batchIndex;
    } catch (thrown) {
      this.#note('the KEY did not take its anchor', thrown);
    }
  }
}

function survey(token: Token): { readonly newest: Anchor | null; readonly place: number } {
  let newest: Anchor | null = null;
  let place = 1;
  for (const [at, name] of names.entries()) {
    const bytes = token.readObject(name);
    const anchor = bytes === null ? null : decodeAnchor(bytes);
    if (anchor === null || (newest !== null && !isNewer(anchor, newest))) continue;
    newest = anchor;
    place = at;
  }
  return { newest, place };
}

const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

const isNewer = (a: Anchor, b: Anchor): boolean =>
  a.mountEpoch > b.mountEpoch || (a.mountEpoch === b.mountEpoch && a.batchIndex > b.batchIndex);

function encodeAnchor({ storeId, mountEpoch, batchIndex, sealHash }: Anchor): Uint8Array {
  return encodeCbor([1, storeId, mountEpoch, batchIndex, sealHash]);
}

/** Throws `halted`: nobody but us writes these, and a newer service may have. */
function decodeAnchor(bytes: Uint8Array): Anchor {
  try {
    const fields = new FieldReader('anchor', decodeCbor(bytes, 'anchor'));
    fields.version(1);
    const anchor = {
      storeId: fields.bytes('storeId'),
      mountEpoch: fields.count('mountEpoch'),
      batchIndex: fields.count('batchIndex'),
      sealHash: fields.bytes('sealHash', hashBytes),
    };
    fields.end();
    return anchor;
  } catch (cause) {
    throw new UkeyError('halted', `the anchor in the KEY cannot be read: ${asUkeyError(cause).message}`, { cause });
  }
}
