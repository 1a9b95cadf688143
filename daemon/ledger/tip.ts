// Owns: the tip: everything the ledger must know to number the next entry and to judge the limits. Pure.
// Invariants: the tip is a fold over entries in order; the same entries always give the same tip; a checkpoint is a tip as bytes,
// so that mounting folds only what came after it. Amounts are decimal strings.
// Checkpoint: CBOR [1, nextBatch, nextSequence, lastIssuedAtMs, serverTimeMs, documents, [pending count, amount, oldestMs|null], ackedBatch,
// lastWeightyBatch, [[kind and prefix, counter], …], charter|null, [[id, version, batch], …]]; where a certificate was renewed it begins with 2, and the
// batch that brought the new one stands at its end.
import { adminEventIn } from '#ipc-schema/admin.ts';
import { decodeCbor, encodeCbor, FieldReader, malformed } from '#ipc-schema/cbor.ts';
import { type ChartedSeries, charterSchema } from '#ipc-schema/charter.ts';
import { decodeSign1 } from '#ipc-schema/cose.ts';
import type { Entry, EntryKind, Leaf } from '#ipc-schema/entry.ts';
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { money, sumPattern, zero } from '#ipc-schema/money.ts';
import { sumUnits, sumUnitsText } from '#ipc-schema/scaled.ts';
import { templateSchema } from '#ipc-schema/template.ts';
import { decodeAcknowledgementBody, openAcknowledgementUnverified } from '#ipc-schema/upstream.ts';

export interface Pending {
  readonly count: number;
  readonly amount: string;
  /** issuedAtMs of the oldest document that waits for its acknowledgement. */
  readonly oldestMs: number | null;
}

/** Which charter is in force, and where its signed bytes stand. */
export interface CharterPlace {
  readonly serial: number;
  readonly batch: number;
  readonly series: readonly Pick<ChartedSeries, 'prefix' | 'digits'>[];
}

export interface TemplatePlace {
  readonly id: string;
  readonly version: number;
  readonly batch: number;
}

export interface Tip {
  readonly nextBatch: number;
  readonly nextSequence: number;
  readonly lastIssuedAtMs: number;
  /** Newest time that the server has signed: a floor for the clock. */
  readonly serverTimeMs: number;
  /** Invoices and credit notes ever issued. */
  readonly documents: number;
  readonly pending: Pending;
  readonly ackedBatch: number;
  /** Newest batch that holds more than acknowledgements: what upload must reach. */
  readonly lastWeightyBatch: number;
  /** Last counter used, by kind and prefix (`counterKey`): two kinds may share a prefix and part its numbers. */
  readonly counters: ReadonlyMap<string, number>;
  readonly charter: CharterPlace | null;
  readonly templates: readonly TemplatePlace[];
  /** The batch with the certificate that renewed the one of the key in force; null: none did. */
  readonly certificateBatch: number | null;
}

export const emptyTip: Tip = {
  nextBatch: 1,
  nextSequence: 1,
  lastIssuedAtMs: 0,
  serverTimeMs: 0,
  documents: 0,
  pending: { count: 0, amount: '0', oldestMs: null },
  ackedBatch: 0,
  lastWeightyBatch: 0,
  counters: new Map(),
  charter: null,
  templates: [],
  certificateBatch: null,
};

/** Newest time that is recorded: own entries (what our clock said then) and the server's signatures. */
export function floorOf(tip: Tip): number {
  return Math.max(tip.lastIssuedAtMs, tip.serverTimeMs);
}

/** The tip after one more entry of the batch `tip.nextBatch`. Throws halted when the entry does not follow. */
export function withEntry(tip: Tip, leaf: Leaf, entry: Pick<Entry, 'body'>): Tip {
  if (leaf.sequence !== tip.nextSequence)
    throw new UkeyError('halted', `sequence ${leaf.sequence} stands where ${tip.nextSequence} was expected`);
  const base: Tip = {
    ...tip,
    nextSequence: leaf.sequence + 1,
    lastIssuedAtMs: Math.max(tip.lastIssuedAtMs, leaf.issuedAtMs),
    lastWeightyBatch: leaf.kind === 'acknowledgement' ? tip.lastWeightyBatch : tip.nextBatch,
  };
  switch (leaf.kind) {
    case 'invoice':
    case 'credit-note':
      return withDocument(base, leaf);
    case 'charter':
      return { ...base, charter: charterPlace(entry.body, tip.nextBatch) };
    case 'template':
      return { ...base, templates: withTemplate(tip.templates, entry.body, tip.nextBatch) };
    case 'acknowledgement':
      return withAcknowledgement(base, entry.body);
    case 'admin':
      return withAdminEvent(base, entry.body);
    case 'void':
    case 'report':
    case 'file':
      return base;
    default:
      return unreachable(leaf.kind);
  }
}

/** The tip after the batch is complete. */
export function withBatchEnd(tip: Tip): Tip {
  return { ...tip, nextBatch: tip.nextBatch + 1 };
}

function withDocument(tip: Tip, leaf: Leaf): Tip {
  const { pending } = tip;
  const counters = new Map(tip.counters);
  const series = seriesOf(tip.charter, leaf.number ?? '');
  if (series !== null) {
    const counter = Number((leaf.number ?? '').slice(series.prefix.length));
    const key = counterKey(leaf.kind, series.prefix);
    if (!(counter > (counters.get(key) ?? 0))) throw new UkeyError('halted', `number ${leaf.number} does not follow in its series`);
    counters.set(key, counter);
  }
  return {
    ...tip,
    documents: tip.documents + 1,
    counters,
    pending: {
      count: pending.count + 1,
      amount: sumUnitsText(sumUnits(pending.amount) + sumUnits(leaf.total ?? '0')),
      oldestMs: pending.oldestMs ?? leaf.issuedAtMs,
    },
  };
}

function seriesOf(charter: CharterPlace | null, number: string): Pick<ChartedSeries, 'prefix' | 'digits'> | null {
  return charter?.series.find((part) => number.length === part.prefix.length + part.digits && number.startsWith(part.prefix)) ?? null;
}

function charterPlace(body: Uint8Array, batch: number): CharterPlace {
  const charter = charterSchema.parse(decodeJson(decodeSign1(body, 'charter').payload));
  return { serial: charter.serial, batch, series: charter.series.map(({ prefix, digits }) => ({ prefix, digits })) };
}

function withTemplate(templates: readonly TemplatePlace[], body: Uint8Array, batch: number): readonly TemplatePlace[] {
  const { id, version } = templateSchema.parse(decodeJson(decodeSign1(body, 'template').payload));
  return [...templates.filter((place) => place.id !== id || place.version !== version), { id, version, batch }];
}

/** Another key brings a certificate of its own. */
function withAdminEvent(tip: Tip, body: Uint8Array): Tip {
  const event = adminEventIn(body);
  if (event === 'certificate-renewed') return { ...tip, certificateBatch: tip.nextBatch };
  return event === 'succession' ? { ...tip, certificateBatch: null } : tip;
}

function withAcknowledgement(tip: Tip, bodyBytes: Uint8Array): Tip {
  const body = decodeAcknowledgementBody(bodyBytes);
  const ack = openAcknowledgementUnverified(body.signed);
  const left = money(tip.pending.amount).minus(money(body.releasedAmount));
  const count = tip.pending.count - body.releasedCount;
  if (ack.upToBatch < tip.ackedBatch || count < 0 || left.isNegative())
    throw new UkeyError('halted', 'an acknowledgement releases more than is pending');
  return {
    ...tip,
    serverTimeMs: Math.max(tip.serverTimeMs, ack.serverTimeMs),
    ackedBatch: ack.upToBatch,
    pending: { count, amount: (left.isZero() ? zero : left).toFixed(), oldestMs: body.nextOldestMs },
  };
}

export function counterKey(kind: EntryKind, prefix: string): string {
  return `${kind} ${prefix}`;
}

/** Next counter of a series, or null when its range is used up. */
export function nextCounter(tip: Tip, series: ChartedSeries): number | null {
  const counter = Math.max(series.first, (tip.counters.get(counterKey(series.kind, series.prefix)) ?? 0) + 1);
  return counter > series.last ? null : counter;
}

export function encodeTip(tip: Tip): Uint8Array {
  const { pending, charter, certificateBatch } = tip;
  return encodeCbor([
    certificateBatch === null ? 1 : 2,
    tip.nextBatch,
    tip.nextSequence,
    tip.lastIssuedAtMs,
    tip.serverTimeMs,
    tip.documents,
    [pending.count, pending.amount, pending.oldestMs],
    tip.ackedBatch,
    tip.lastWeightyBatch,
    [...tip.counters].map(([prefix, counter]) => [prefix, counter]),
    charter === null ? null : [charter.serial, charter.batch, charter.series.map((part) => [part.prefix, part.digits])],
    tip.templates.map((place) => [place.id, place.version, place.batch]),
    ...(certificateBatch === null ? [] : [certificateBatch]),
  ]);
}

/** Throws invalid-request unless the bytes are one checkpoint. */
export function decodeTip(bytes: Uint8Array): Tip {
  const value = decodeCbor(bytes, 'checkpoint');
  const fields = new FieldReader('checkpoint', value);
  const isRenewed = Array.isArray(value) && value[0] === 2;
  fields.version(isRenewed ? 2 : 1);
  const [nextBatch, nextSequence, lastIssuedAtMs] = [
    fields.count('nextBatch'),
    fields.count('nextSequence'),
    fields.count('lastIssuedAtMs'),
  ];
  const [serverTimeMs, documents] = [fields.count('serverTimeMs'), fields.count('documents')];
  const pendingFields = new FieldReader('pending', fields.list('pending'));
  const pending = {
    count: pendingFields.count('count'),
    amount: pendingFields.text('amount'),
    oldestMs: pendingFields.countOrNull('oldestMs'),
  };
  pendingFields.end();
  if (!sumPattern.test(pending.amount)) throw malformed('checkpoint', 'has an amount that is not a decimal');
  const [ackedBatch, lastWeightyBatch] = [fields.count('ackedBatch'), fields.count('lastWeightyBatch')];
  const counters = fields.list('counters').map((value): [string, number] => {
    const fields = new FieldReader('counter', value);
    const pair: [string, number] = [fields.text('prefix'), fields.count('counter')];
    fields.end();
    return pair;
  });
  if (new Map(counters).size !== counters.length) throw malformed('checkpoint', 'counts a series twice');
  const charter = decodeCharterPlace(fields.any('charter'));
  const templates = fields.list('templates').map((value): TemplatePlace => {
    const fields = new FieldReader('template place', value);
    const place = { id: fields.text('id'), version: fields.count('version'), batch: fields.count('batch') };
    fields.end();
    return place;
  });
  const certificateBatch = isRenewed ? fields.count('certificateBatch') : null;
  fields.end();
  const known = { nextBatch, nextSequence, lastIssuedAtMs, serverTimeMs, documents, pending, ackedBatch, lastWeightyBatch };
  return { ...known, counters: new Map(counters), charter, templates, certificateBatch };
}

function decodeCharterPlace(value: unknown): CharterPlace | null {
  if (value === null) return null;
  const fields = new FieldReader('charter place', value);
  const place = { serial: fields.count('serial'), batch: fields.count('batch'), series: fields.list('series').map(decodeSeriesPlace) };
  fields.end();
  return place;
}

function decodeSeriesPlace(value: unknown): CharterPlace['series'][number] {
  const fields = new FieldReader('series', value);
  const place = { prefix: fields.text('prefix'), digits: fields.count('digits') };
  fields.end();
  return place;
}
