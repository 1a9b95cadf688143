// Owns: a token made of node:crypto keys that enrols and seals real batches of real documents, for whoever needs batches without a daemon.
// Invariants: everything is built by the writer's parts of ipc-schema (encoders, buildTree), so that what verifies it is tested against them.
// `seal` takes the facts of a seal that a test wants false; what comes out is signed all the same.
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { encodeBatch, joinEntries, type Seal, sealHashOf, sealPayload } from '#ipc-schema/batch.ts';
import { type Algorithm, keyIdOf, makeSign1 } from '#ipc-schema/cose.ts';
import { bodyHashOf, type Entry, encodeEntry, encodeLeaf, type Leaf } from '#ipc-schema/entry.ts';
import type { InvoiceDocument } from '#ipc-schema/invoice.ts';
import { buildTree, leafHash, rootOf } from '#ipc-schema/merkle.ts';
import { otherSeal } from '#ipc-schema/spelling.ts';
import { encodeUpload, enrolmentPayload } from '#ipc-schema/upstream.ts';
import { type ChainHead, chainStart } from '#ipc-schema/verify.ts';

export const builtTaxId = 'GB123456789';

export interface BuiltBatch {
  readonly bytes: Uint8Array;
  readonly sealBytes: Uint8Array;
  readonly entries: readonly Entry[];
  readonly head: ChainHead;
}

export type BuiltDraft =
  | { readonly kind: 'document'; readonly change?: Partial<InvoiceDocument>; readonly leaf?: Partial<Leaf>; readonly fillerBytes?: number }
  | { readonly kind: 'body'; readonly entryKind: Leaf['kind']; readonly body: Uint8Array; readonly leaf?: Partial<Leaf> };

const documentDraft: BuiltDraft = { kind: 'document' };

export class BuiltToken {
  readonly algorithm: Algorithm;
  readonly publicKey: KeyObject;
  readonly spki: Uint8Array;
  /** The ledger that it seals: its own, or the one that it goes on with. */
  tokenIdBytes: Uint8Array;
  tokenId: string;
  readonly #keyId: Uint8Array;
  readonly #privateKey: KeyObject;
  head: ChainHead;
  /** Of its seals' signatures: `high` as older versions left them, wherever the token had made them so. */
  spelling: 'low' | 'high' = 'low';
  #nowMs = Date.parse('2030-01-02T03:04:05.678Z');

  constructor(algorithm: Algorithm = 'ES256') {
    const pair =
      algorithm === 'ES256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('rsa', { modulusLength: 2048 });
    this.algorithm = algorithm;
    this.#privateKey = pair.privateKey;
    this.publicKey = pair.publicKey;
    this.spki = pair.publicKey.export({ type: 'spki', format: 'der' });
    this.#keyId = keyIdOf(pair.publicKey);
    this.tokenIdBytes = this.#keyId;
    this.tokenId = Buffer.from(this.tokenIdBytes).toString('hex');
    this.head = chainStart(new Uint8Array(0));
  }

  /** Body of POST /v1/enrol. */
  enrolment(code: string, serial = 'TEST-0001'): Uint8Array {
    return this.sign(enrolmentPayload({ spki: this.spki, serial, code }));
  }

  /** The chain begins at this certificate (DER). */
  begin(certificate: Uint8Array): void {
    this.head = chainStart(certificate);
  }

  /** From here on it seals the other token's ledger. */
  goOn({ tokenIdBytes, tokenId, head }: BuiltToken): void {
    Object.assign(this, { tokenIdBytes, tokenId, head });
  }

  sign(payload: Uint8Array): Uint8Array {
    const key = this.algorithm === 'ES256' ? { key: this.#privateKey, dsaEncoding: 'ieee-p1363' as const } : this.#privateKey;
    return makeSign1(this.algorithm, this.#keyId, payload, (message) => sign('sha256', message, key));
  }

  signSeal(payload: Uint8Array): Uint8Array {
    const low = this.sign(payload);
    return this.spelling === 'low' ? low : (otherSeal(low) ?? low);
  }

  /** One batch behind the head; the head moves unless `keepHead`. */
  batch(drafts: number | readonly BuiltDraft[] = 1, seal: Partial<Seal> = {}, keepHead = false): BuiltBatch {
    const list = typeof drafts === 'number' ? Array.from({ length: drafts }, () => documentDraft) : drafts;
    const built = this.seal(
      list.map((draft, at) => this.#entry(draft, this.head.nextSequence + at)),
      seal,
    );
    if (!keepHead) this.head = built.head;
    return built;
  }

  seal(entries: readonly Entry[], change: Partial<Seal> = {}): BuiltBatch {
    const seal: Seal = {
      tokenId: this.tokenIdBytes,
      batchIndex: this.head.batchIndex + 1,
      firstSequence: this.head.nextSequence,
      count: entries.length,
      root: rootOf(buildTree(entries.map((entry) => leafHash(entry.leaf)))),
      previousSealHash: this.head.sealHash,
      sealedAtMs: ++this.#nowMs,
      ...change,
    };
    const sealBytes = this.signSeal(sealPayload(seal));
    const head = { batchIndex: seal.batchIndex, nextSequence: seal.firstSequence + seal.count, sealHash: sealHashOf(sealBytes) };
    return { bytes: encodeBatch(sealBytes, joinEntries(entries.map(encodeEntry))), sealBytes, entries, head };
  }

  /** Upload before compression and sealing. */
  upload(batches: readonly (BuiltBatch | Uint8Array)[]): Uint8Array {
    const list = batches.map((batch) => (batch instanceof Uint8Array ? batch : batch.bytes));
    return encodeUpload({ tokenId: this.tokenIdBytes, batches: list });
  }

  #entry(draft: BuiltDraft, sequence: number): Entry {
    const issuedAtMs = ++this.#nowMs;
    if (draft.kind === 'body') {
      const none = { number: null, currency: null, total: null, taxTotal: null };
      const leaf = { kind: draft.entryKind, sequence, issuedAtMs, issuerTaxId: builtTaxId, ...none, bodyHash: bodyHashOf(draft.body) };
      return { leaf: encodeLeaf({ ...leaf, ...draft.leaf }), body: draft.body };
    }
    const document = { ...builtDocument(this.tokenId, sequence, issuedAtMs, draft.fillerBytes ?? 0), ...draft.change };
    const body = Buffer.from(JSON.stringify(document), 'utf8');
    const { kind, number, currency, total, taxTotal } = document;
    const leaf = { kind, sequence, number, issuedAtMs, issuerTaxId: builtTaxId, currency, total, taxTotal, bodyHash: bodyHashOf(body) };
    return { leaf: encodeLeaf({ ...leaf, ...draft.leaf }), body };
  }
}

/** A small invoice; `fillerBytes` adds lines until the body is about that much larger. */
export function builtDocument(tokenId: string, sequence: number, issuedAtMs: number, fillerBytes = 0): InvoiceDocument {
  const line = (at: number) => ({
    description: `WHITE HANGING HEART T-LIGHT HOLDER ${at}`,
    sku: `85123A-${at}`,
    quantity: '6',
    unitPrice: '2.55',
    taxCode: 'standard',
    amount: '15.30',
    tax: '2.55',
  });
  const count = 1 + Math.round(fillerBytes / JSON.stringify(line(10)).length);
  const total = (15.3 * count).toFixed(2);
  const tax = (2.55 * count).toFixed(2);
  return {
    format: 'ukey-document/1',
    kind: 'invoice',
    token: tokenId,
    sequence,
    number: `A-${String(sequence).padStart(8, '0')}`,
    issuedAt: new Date(issuedAtMs).toISOString(),
    issuer: { taxId: builtTaxId, name: 'Example Gifts Ltd', address: ['1 High Street', 'London'] },
    template: { id: 'retail', version: 1 },
    currency: 'GBP',
    pricesIncludeTax: true,
    lines: Array.from({ length: count }, (_, at) => line(at)),
    taxes: [{ code: 'standard', rate: '20', net: (15.3 * count - 2.55 * count).toFixed(2), tax }],
    total,
    taxTotal: tax,
    request: { terminal: 'till-1', key: `key-${sequence}`, digest: createHash('sha256').update(String(sequence)).digest('hex') },
  };
}
