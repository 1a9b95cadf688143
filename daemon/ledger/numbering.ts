// Owns: the decision what becomes of the pool: which drafts enter the next batch, with which sequence and number, and which are refused. Pure but for
// the credit book that it is handed (what remains of originals), whose reservations the sequencer gives back when a batch is not written.
// Invariants: a number exists only inside an entry of the plan; sequence and counters follow the tip without a hole; every document passes `judge`.
import { batchMaxBytes } from '#ipc-schema/batch.ts';
import { type ChartedSeries, type Charter, numberText } from '#ipc-schema/charter.ts';
import { bodyHashOf, bodyMaxBytes, type EntryKind, encodeEntry, encodeLeaf, type Leaf } from '#ipc-schema/entry.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { InvoiceKind } from '#ipc-schema/invoice.ts';
import { decimalsOf, money, sumTextOf } from '#ipc-schema/money.ts';
import type { CreditBook } from './credits.ts';
import { judge, type LimitFacts, stampMs } from './limits.ts';
import type { Committed } from './stored.ts';
import { nextCounter, type Tip, withBatchEnd, withEntry } from './tip.ts';

export interface Numbered {
  readonly sequence: number;
  readonly number: string;
  readonly issuedAtMs: number;
}

/** A till's wish, checked and computed, waiting for its number. */
export interface DocumentDraft {
  readonly kind: 'document';
  readonly documentKind: InvoiceKind;
  readonly terminal: string;
  readonly keyHash: string;
  readonly digest: string;
  readonly currency: string;
  readonly total: string;
  readonly taxTotal: string;
  /** Sequence of our document that this credit note takes back from. */
  readonly corrects: number | null;
  /** Upper bound of the body's size, for filling a batch. */
  readonly bodyBytes: number;
  body(numbered: Numbered): Uint8Array;
  /** Told while the devices sync: its answer may be made ready. It may still fail, and then nothing was issued. What this throws is not heard. */
  readonly onSealed?: ((committed: Committed) => void) | undefined;
}

/** An entry of the service's own: no number, no limit. */
export interface OwnDraft {
  readonly kind: 'own';
  readonly entryKind: Exclude<EntryKind, InvoiceKind>;
  readonly bodyMaxBytes: number;
  /** Throws to be left out (its waiter gets the error). */
  body(tip: Tip): Uint8Array;
}

export type Draft = DocumentDraft | OwnDraft;

export interface PlannedEntry<D extends Draft = Draft> {
  readonly draft: D;
  readonly leaf: Leaf;
  readonly leafBytes: Uint8Array;
  readonly body: Uint8Array;
  readonly encoded: Uint8Array;
}

export type Outcome = { readonly kind: 'planned'; readonly entry: PlannedEntry } | { readonly kind: 'refused'; readonly error: UkeyError };

export interface Plan {
  /** One for each draft, in their order; none for the last ones where they did not fit. */
  readonly outcomes: readonly Outcome[];
  readonly entries: readonly PlannedEntry[];
  /** After the batch. */
  readonly tip: Tip;
}

export interface Circumstance {
  readonly charter: Charter | null;
  readonly wallMs: number;
  /** Limit facts as of a tip. */
  limitFacts(tip: Tip, charter: Charter): LimitFacts;
  readonly credits: CreditBook;
}

/**
 * Refuses draft by draft: one that cannot be planned, whatever the reason, neither takes a number nor harms the others. Ends before the first that would
 * make the batch longer than batchMaxBytes: how long an entry is, only its numbering tells.
 */
export function planBatch(tip: Tip, drafts: readonly Draft[], now: Circumstance): Plan {
  let at = tip;
  const outcomes: Outcome[] = [];
  const entries: PlannedEntry[] = [];
  let bytes = 0;
  for (const draft of drafts) {
    try {
      const entry = draft.kind === 'document' ? planDocument(at, draft, now) : planOwn(at, draft, now);
      const withIt = bytes + entry.encoded.length;
      if (withIt > batchMaxBytes && entries.length > 0) break;
      const after = withEntry(at, entry.leaf, entry);
      if (draft.kind === 'document') reserveCredit(draft, now.credits); // last: from here on nothing refuses
      at = after;
      bytes = withIt;
      entries.push(entry);
      outcomes.push({ kind: 'planned', entry });
    } catch (error) {
      outcomes.push({ kind: 'refused', error: asUkeyError(error) });
    }
  }
  return { outcomes, entries, tip: entries.length === 0 ? tip : withBatchEnd(at) };
}

function reserveCredit(draft: DocumentDraft, credits: CreditBook): void {
  if (draft.corrects === null || credits.reserve(draft.corrects, draft.total)) return;
  const remaining = sumTextOf(money(credits.remaining(draft.corrects)), decimalsOf(draft.total));
  throw new UkeyError('credit-exceeds', `only ${remaining} remains of the original`, { field: 'corrects' });
}

/** The reservations of entries that were not written. */
export function giveBackCredits(entries: readonly PlannedEntry[], credits: CreditBook): void {
  for (const { draft } of entries) {
    if (draft.kind === 'document' && draft.corrects !== null) credits.giveBack(draft.corrects, draft.total);
  }
}

function planDocument(tip: Tip, draft: DocumentDraft, now: Circumstance): PlannedEntry {
  const { charter } = now;
  if (charter === null) throw new UkeyError('halted', 'the ledger has no charter');
  const verdict = judge(now.limitFacts(tip, charter), draft.total);
  if (verdict.kind === 'refuse') throw new UkeyError(verdict.code, verdict.why);
  const { series, counter } = placeInSeries(tip, charter, draft.documentKind);
  const issuedAtMs = Math.max(now.wallMs, tip.lastIssuedAtMs);
  const numbered = { sequence: tip.nextSequence, number: numberText(series, counter), issuedAtMs };
  const body = draft.body(numbered);
  if (body.length > bodyMaxBytes)
    throw new UkeyError('too-large', `the document has ${body.length} bytes, at most ${bodyMaxBytes} are allowed`);
  return planned(draft, body, {
    kind: draft.documentKind,
    ...numbered,
    issuerTaxId: charter.issuer.taxId,
    currency: draft.currency,
    total: draft.total,
    taxTotal: draft.taxTotal,
  });
}

/** The first series of this kind that has a number left: a charter may grant a second one before the first is used up. */
function placeInSeries(tip: Tip, charter: Charter, kind: InvoiceKind): { readonly series: ChartedSeries; readonly counter: number } {
  for (const series of charter.series) {
    const counter = series.kind === kind ? nextCounter(tip, series) : null;
    if (counter !== null) return { series, counter };
  }
  throw new UkeyError('range-exhausted', `the charter has no number left for ${kind}`);
}

function planOwn(tip: Tip, draft: OwnDraft, now: Circumstance): PlannedEntry {
  const { charter } = now;
  return planned(draft, draft.body(tip), {
    kind: draft.entryKind,
    sequence: tip.nextSequence,
    number: null,
    issuedAtMs: Math.max(charter === null ? now.wallMs : stampMs(now.limitFacts(tip, charter)), tip.lastIssuedAtMs),
    issuerTaxId: charter?.issuer.taxId ?? '',
    currency: null,
    total: null,
    taxTotal: null,
  });
}

function planned(draft: Draft, body: Uint8Array, facts: Omit<Leaf, 'bodyHash'>): PlannedEntry {
  const leaf: Leaf = { ...facts, bodyHash: bodyHashOf(body) };
  const leafBytes = encodeLeaf(leaf);
  return { draft, leaf, leafBytes, body, encoded: encodeEntry({ leaf: leafBytes, body }) };
}
