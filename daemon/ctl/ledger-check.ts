// Owns: the check of a whole ledger, batch by batch: what a till, a server or an auditor may believe of it with public keys alone.
// Two depths: what breaks the chain (a signature, a hash, a missing or moved batch) is thrown at once, because nothing behind it can be
// believed; what is sealed rightly and still wrong (a hole in the numbers, a key used twice, a total that does not add up) is a
// finding, and the walk goes on.
// Pure: a fold over bytes; no device, socket or clock. Shares with the writer the decoders, and the arithmetic of totals.ts.
import type { KeyObject } from 'node:crypto';
import { X509Certificate } from 'node:crypto';
import { arithmeticFaults, readChecked } from '#ctl/document-check.ts';
import { certificateBehind, HandoverCheck } from '#ctl/handover-check.ts';
import { decodeBatch, decodeSeal } from '#ipc-schema/batch.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { type ChartedSeries, type Charter, charterSchema, openCharter } from '#ipc-schema/charter.ts';
import { decodeSign1, keyIdOf, publicKeyFromSpki } from '#ipc-schema/cose.ts';
import type { EntryKind } from '#ipc-schema/entry.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { InvoiceDocument } from '#ipc-schema/invoice.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { type Money, money, zero } from '#ipc-schema/money.ts';
import { check } from '#ipc-schema/schema.ts';
import { newestSigner, type Signers } from '#ipc-schema/signers.ts';
import { signersOf, succeedBy } from '#ipc-schema/succession.ts';
import { openTemplate, type Template, templateSchema } from '#ipc-schema/template.ts';
import { decodeAcknowledgementBody, openAcknowledgement } from '#ipc-schema/upstream.ts';
import { type ChainHead, chainStart, type VerifiedBatch, type VerifiedEntry, verifyNext } from '#ipc-schema/verify.ts';

export interface LedgerOrigin {
  /** Enrolment certificate (DER): its hash stands before the first seal, its key is the first seals'. */
  readonly certificate: Uint8Array;
  /** Trust root of charters and templates (DER); null: they are read, and their signatures not checked. */
  readonly authorityCertificate: Uint8Array | null;
  /** Where the ledger's beginning was released: what is left begins with this batch. Left out: it begins with batch 1. */
  readonly remainder?: Remainder;
}

/** Signatures, hashes and order are checked in full from `firstBatch` on. What only older batches could tell is not judged. */
export interface Remainder {
  /** The oldest batch that is kept. Its seal names, under the KEY's signature, what stood before it. */
  readonly firstBatch: Uint8Array;
  /** Charters and templates (signed) that came before it, oldest first. */
  readonly charters: readonly Uint8Array[];
  readonly templates: readonly Uint8Array[];
  /** Successions (signed) that came before it, oldest first; left out: none. */
  readonly successions?: readonly Uint8Array[];
}

export type FindingKind =
  | 'document-unreadable'
  | 'document-disagrees'
  | 'arithmetic'
  | 'template-unknown'
  | 'number'
  | 'key-repeated'
  | 'credit'
  | 'charter'
  | 'template'
  | 'acknowledgement'
  | 'admin';

export interface Finding {
  readonly kind: FindingKind;
  readonly sequence: number;
  readonly what: string;
}

/** Amounts of one currency, without sign. */
export interface CurrencySums {
  readonly currency: string;
  readonly invoices: number;
  readonly invoiceTotal: string;
  readonly invoiceTaxTotal: string;
  readonly creditNotes: number;
  readonly creditNoteTotal: string;
  readonly creditNoteTaxTotal: string;
}

export interface SeriesUse {
  readonly prefix: string;
  readonly first: string;
  readonly last: string;
  readonly count: number;
}

export interface LedgerReport {
  /** The chain held so far and nothing was found. */
  readonly holds: boolean;
  readonly tokenId: string;
  /** 1, or the oldest batch that is kept. */
  readonly firstBatch: number;
  /** In all, those that were released included. */
  readonly batches: number;
  readonly entries: number;
  readonly byKind: Readonly<Partial<Record<EntryKind, number>>>;
  readonly sums: readonly CurrencySums[];
  readonly series: readonly SeriesUse[];
  readonly firstIssuedAt: string | null;
  readonly lastIssuedAt: string | null;
  /** 0: nothing was acknowledged yet. */
  readonly acknowledgedBatch: number;
  /** Documents behind the last acknowledgement. */
  readonly pending: number;
  readonly head: { readonly batchIndex: number; readonly nextSequence: number; readonly sealHash: string };
  /** At most findingsMax of them. */
  readonly findings: readonly Finding[];
  readonly findingsCount: number;
}

export const findingsMax = 100;

interface Sum {
  count: number;
  total: Money;
  tax: Money;
}

interface Counter {
  readonly first: string;
  last: string;
  lastCounter: number;
  count: number;
}

export class LedgerCheck {
  #signers: Signers;
  readonly #tokenId: string;
  readonly #authorityKey: KeyObject | null;
  #head: ChainHead;
  /** Of the key in force (DER). */
  #certificate: Uint8Array;
  /** Batches and entries before the first that was checked. */
  readonly #before: ChainHead;
  #entries = 0;
  #acknowledgedBatch = 0;
  #firstMs: number | null = null;
  #lastMs: number | null = null;
  #charter: Charter | null = null;
  readonly #ackKeys: KeyObject[] = [];
  readonly #templates = new Map<string, Template>();
  /** Seal hashes of the batches that were checked, in order, and the documents in each. */
  readonly #sealHashes: Uint8Array[] = [];
  readonly #documentsByBatch: number[] = [];
  readonly #byKind = new Map<EntryKind, number>();
  readonly #sums = new Map<string, Record<'invoice' | 'credit-note', Sum>>();
  readonly #series = new Map<string, Counter>();
  readonly #requestKeys = new Map<string, number>();
  /** What may still be credited, by the invoice's number. */
  readonly #creditable = new Map<string, Money>();
  readonly #findings: Finding[] = [];
  #findingsCount = 0;
  readonly #handover: HandoverCheck;

  /** Throws invalid-request when the certificates cannot be read. That the one signed the other is certificates.ts's to check. */
  constructor(origin: LedgerOrigin) {
    this.#authorityKey = origin.authorityCertificate === null ? null : new X509Certificate(origin.authorityCertificate).publicKey;
    const { remainder } = origin;
    this.#signers = signersOf(origin.certificate, remainder?.successions ?? [], this.#authorityKey);
    this.#certificate = newestSigner(this.#signers).certificate;
    this.#tokenId = Buffer.from(this.#signers.tokenId).toString('hex');
    this.#before = remainder === undefined ? chainStart(origin.certificate) : headBefore(remainder.firstBatch);
    this.#head = this.#before;
    this.#handover = new HandoverCheck(remainder === undefined);
    for (const body of remainder?.charters ?? []) this.#addCharter(body);
    for (const body of remainder?.templates ?? []) this.#addTemplate(body);
  }

  /** Nothing before the first batch was released. */
  get #isWhole(): boolean {
    return this.#before.batchIndex === 0;
  }

  /** Batches and entries that held so far. */
  get progress(): { readonly batches: number; readonly entries: number } {
    return { batches: this.#head.batchIndex, entries: this.#entries };
  }

  /** The next batch. Throws invalid-request when it does not hold or does not follow; the state is then as before. */
  add(batchBytes: Uint8Array): VerifiedBatch {
    const { batch, signers } = verifyNext(batchBytes, this.#signers, this.#head, succeedBy(this.#authorityKey));
    const isSucceeding = newestSigner(signers).serial !== newestSigner(this.#signers).serial;
    this.#signers = signers;
    this.#head = batch.head;
    for (const { sequence, what } of this.#handover.add(batch, isSucceeding)) this.#find('admin', sequence, what);
    this.#sealHashes.push(batch.head.sealHash);
    this.#documentsByBatch.push(0);
    if (isSucceeding) this.#certificate = newestSigner(signers).certificate;
    for (const [place, entry] of batch.entries.entries()) {
      this.#addEntry(entry);
      if (entry.parsed.kind !== 'admin' || (isSucceeding && place === 0)) continue;
      this.#readPart('admin', entry.parsed.sequence, () => {
        this.#certificate = certificateBehind(entry.body, this.#certificate, signers.tokenId, this.#authorityKey);
      });
    }
    return batch;
  }

  result(): LedgerReport {
    const { batchIndex, nextSequence, sealHash } = this.#head;
    return {
      holds: this.#findingsCount === 0,
      tokenId: this.#tokenId,
      firstBatch: this.#before.batchIndex + 1,
      batches: batchIndex,
      entries: this.#entries,
      byKind: Object.fromEntries(this.#byKind),
      sums: [...this.#sums].map(([currency, { invoice, 'credit-note': credit }]) => ({
        currency,
        invoices: invoice.count,
        invoiceTotal: invoice.total.toFixed(),
        invoiceTaxTotal: invoice.tax.toFixed(),
        creditNotes: credit.count,
        creditNoteTotal: credit.total.toFixed(),
        creditNoteTaxTotal: credit.tax.toFixed(),
      })),
      series: [...this.#series].map(([prefix, { first, last, count }]) => ({ prefix, first, last, count })),
      firstIssuedAt: instant(this.#firstMs),
      lastIssuedAt: instant(this.#lastMs),
      acknowledgedBatch: this.#acknowledgedBatch,
      pending: this.#documentsByBatch
        .slice(Math.max(0, this.#acknowledgedBatch - this.#before.batchIndex))
        .reduce((sum, count) => sum + count, 0),
      head: { batchIndex, nextSequence, sealHash: Buffer.from(sealHash).toString('hex') },
      findings: this.#findings,
      findingsCount: this.#findingsCount,
    };
  }

  #find(kind: FindingKind, sequence: number, what: string): void {
    this.#findingsCount++;
    if (this.#findings.length < findingsMax) this.#findings.push({ kind, sequence, what });
  }

  #addEntry(entry: VerifiedEntry): void {
    const { kind, issuedAtMs, sequence } = entry.parsed;
    this.#entries++;
    this.#byKind.set(kind, (this.#byKind.get(kind) ?? 0) + 1);
    this.#firstMs ??= issuedAtMs;
    this.#lastMs = issuedAtMs;
    switch (kind) {
      case 'invoice':
      case 'credit-note':
        this.#addDocument(entry, kind);
        return;
      case 'charter':
        this.#readPart('charter', sequence, () => this.#addCharter(entry.body));
        return;
      case 'template':
        this.#readPart('template', sequence, () => this.#addTemplate(entry.body));
        return;
      case 'acknowledgement':
        this.#readPart('acknowledgement', sequence, () => this.#addAcknowledgement(entry.body, sequence));
        return;
      case 'void':
      case 'report':
      case 'file':
      case 'admin':
        return;
    }
  }

  #readPart(kind: FindingKind, sequence: number, read: () => void): void {
    try {
      read();
    } catch (thrown) {
      this.#find(kind, sequence, asUkeyError(thrown).message);
    }
  }

  #addCharter(body: Uint8Array): void {
    const charter =
      this.#authorityKey === null
        ? check(charterSchema, decodeJson(decodeSign1(body, 'charter').payload))
        : openCharter(body, this.#authorityKey);
    if (charter.tokenId !== this.#tokenId) throw malformed('charter', 'is of another token');
    if (this.#charter !== null && charter.serial <= this.#charter.serial) throw malformed('charter', 'is not newer than the one before it');
    this.#charter = charter;
    this.#ackKeys.push(publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')));
  }

  #addTemplate(body: Uint8Array): void {
    const template =
      this.#authorityKey === null
        ? check(templateSchema, decodeJson(decodeSign1(body, 'template').payload))
        : openTemplate(body, this.#authorityKey);
    this.#templates.set(`${template.id} v${template.version}`, template);
  }

  #addAcknowledgement(body: Uint8Array, sequence: number): void {
    const { signed } = decodeAcknowledgementBody(body);
    const key = this.#ackKeys.find((one) => Buffer.compare(keyIdOf(one), decodeSign1(signed, 'acknowledgement').keyId) === 0);
    if (key === undefined) throw malformed('acknowledgement', 'is signed by a server that no charter names');
    const ack = openAcknowledgement(signed, key);
    if (Buffer.from(ack.tokenId).toString('hex') !== this.#tokenId) throw malformed('acknowledgement', 'is for another token');
    const sealHash = this.#sealHashes[ack.upToBatch - 1 - this.#before.batchIndex];
    const isReleased = ack.upToBatch <= this.#before.batchIndex && !this.#isWhole;
    if (!isReleased && (sealHash === undefined || Buffer.compare(sealHash, ack.headSealHash) !== 0))
      throw malformed('acknowledgement', `names another batch ${ack.upToBatch} than this ledger has`);
    if (ack.upToBatch < this.#acknowledgedBatch) this.#find('acknowledgement', sequence, 'the acknowledgement goes back');
    this.#acknowledgedBatch = Math.max(this.#acknowledgedBatch, ack.upToBatch);
  }

  #addDocument({ parsed, body }: VerifiedEntry, kind: 'invoice' | 'credit-note'): void {
    const { sequence } = parsed;
    const at = this.#documentsByBatch.length - 1;
    this.#documentsByBatch[at] = (this.#documentsByBatch[at] ?? 0) + 1;
    this.#addNumber(parsed.number ?? '', kind, sequence);
    const total = money(parsed.total ?? '0');
    this.#addSum(kind, parsed.currency ?? '', total, money(parsed.taxTotal ?? '0'));
    const reading = readChecked(parsed, body, this.#tokenId);
    if (reading.kind === 'unreadable') {
      this.#find('document-unreadable', sequence, reading.why);
      return;
    }
    const { document, faults } = reading;
    for (const fault of faults) this.#find('document-disagrees', sequence, fault);
    this.#addArithmetic(document, sequence);
    this.#addRequestKey(document, sequence);
    this.#addCredit(document, total, sequence);
  }

  /** The number must be the next one of its series in the charter that is in force. */
  #addNumber(number: string, kind: ChartedSeries['kind'], sequence: number): void {
    if (this.#charter === null && !this.#isWhole) return; // it stood in what was released
    const series = this.#charter?.series.find(
      (one) => one.kind === kind && number.startsWith(one.prefix) && number.length === one.prefix.length + one.digits,
    );
    const counter = series === undefined ? Number.NaN : Number(number.slice(series.prefix.length));
    if (series === undefined || !Number.isSafeInteger(counter)) {
      this.#find('number', sequence, `number ${number} is of no series in the charter`);
      return;
    }
    const use = this.#series.get(series.prefix);
    // The first of a remainder stands behind numbers that are not there any more.
    const expected = use === undefined && !this.#isWhole ? counter : Math.max(series.first, (use?.lastCounter ?? 0) + 1);
    if (counter !== expected) this.#find('number', sequence, `number ${number} stands where counter ${expected} was expected`);
    if (counter > series.last) this.#find('number', sequence, `number ${number} is beyond the range of its series`);
    if (use === undefined) {
      this.#series.set(series.prefix, { first: number, last: number, lastCounter: counter, count: 1 });
      return;
    }
    // A repeated or older number must not make the next right one look wrong.
    if (counter > use.lastCounter) {
      use.last = number;
      use.lastCounter = counter;
    }
    use.count++;
  }

  #addSum(kind: 'invoice' | 'credit-note', currency: string, total: Money, tax: Money): void {
    const sums = this.#sums.get(currency) ?? {
      invoice: { count: 0, total: zero, tax: zero },
      'credit-note': { count: 0, total: zero, tax: zero },
    };
    this.#sums.set(currency, sums);
    const sum = sums[kind];
    sum.count++;
    sum.total = sum.total.plus(total);
    sum.tax = sum.tax.plus(tax);
  }

  #addArithmetic(document: InvoiceDocument, sequence: number): void {
    const name = `${document.template.id} v${document.template.version}`;
    const template = this.#templates.get(name);
    if (template === undefined) {
      if (!this.#isWhole) return;
      this.#find('template-unknown', sequence, `template ${name} was not in the ledger before`);
      return;
    }
    for (const fault of arithmeticFaults(document, template)) this.#find('arithmetic', sequence, fault);
  }

  #addRequestKey({ request }: InvoiceDocument, sequence: number): void {
    const name = `${request.terminal} ${request.key}`;
    const before = this.#requestKeys.get(name);
    if (before !== undefined)
      this.#find('key-repeated', sequence, `terminal ${request.terminal} issued with key ${request.key} before, as sequence ${before}`);
    else this.#requestKeys.set(name, sequence);
  }

  #addCredit({ kind, number, corrects }: InvoiceDocument, total: Money, sequence: number): void {
    if (kind === 'invoice') {
      this.#creditable.set(number, total);
      return;
    }
    if (corrects === undefined || !('number' in corrects)) return;
    const left = this.#creditable.get(corrects.number)?.minus(total);
    if (left === undefined && !this.#isWhole) return; // the original was released
    if (left === undefined) this.#find('credit', sequence, `corrects ${corrects.number}, which is no invoice of this ledger`);
    else if (left.lessThan(zero)) this.#find('credit', sequence, `credits more than what remains of ${corrects.number}`);
    else this.#creditable.set(corrects.number, left);
  }
}

/** Its signature and place are checked when it is added. */
function headBefore(firstBatch: Uint8Array): ChainHead {
  const { seal } = decodeSeal(decodeBatch(firstBatch).sealBytes);
  return { batchIndex: seal.batchIndex - 1, nextSequence: seal.firstSequence, sealHash: seal.previousSealHash };
}

function instant(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
