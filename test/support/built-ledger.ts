// Owns: a whole small ledger without a daemon: a token that an authority enrolled, its charter and template committed, documents in series.
// Invariants: authority, certificates, charter and template are made by the ticket server's own parts; batches by batch-builder.ts.
import { X509Certificate } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import type { Leaf } from '#ipc-schema/entry.ts';
import { encodeEvidence } from '#ipc-schema/evidence.ts';
import { encodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import type { InvoiceDocument } from '#ipc-schema/invoice.ts';
import { buildTree, inclusionPath, leafHash } from '#ipc-schema/merkle.ts';
import { acknowledgementPayload, encodeAcknowledgementBody } from '#ipc-schema/upstream.ts';
import { type Authority, openAuthority } from '#server/authority.ts';
import { enrolmentOf, makeGrant } from '#server/grant.ts';
import { type BuiltBatch, type BuiltDraft, BuiltToken, builtTaxId } from '#test/support/batch-builder.ts';

/** The token's clock starts a day later: within the certificates' validity. */
const enrolledAtMs = Date.parse('2030-01-01T00:00:00Z');

export class BuiltLedger {
  readonly token: BuiltToken;
  readonly authority: Authority;
  readonly certificate: Buffer;
  readonly batches: BuiltBatch[] = [];
  readonly #counters = { invoice: 0, 'credit-note': 0 };

  private constructor(
    token: BuiltToken,
    authority: Authority,
    certificate: Uint8Array,
    first: readonly (readonly [Leaf['kind'], string])[],
  ) {
    this.token = token;
    this.authority = authority;
    this.certificate = Buffer.from(certificate);
    token.begin(certificate);
    this.add(first.map(([entryKind, body]) => ({ kind: 'body', entryKind, body: Buffer.from(body, 'base64') })));
  }

  /** Batch 1 holds charter and template, as after provisioning. */
  static async begin(): Promise<BuiltLedger> {
    const directory = await mkdtemp(join(tmpdir(), 'ukey-authority-'));
    try {
      const authority = await openAuthority(directory, enrolledAtMs);
      const series = [
        { kind: 'invoice', prefix: 'A-', digits: 8, first: 1, last: 99_999_999 },
        { kind: 'credit-note', prefix: 'C-', digits: 8, first: 1, last: 99_999_999 },
      ];
      const limits = { hours: 72, count: 1_000, amount: '100000', single: '5000' };
      const issuer = { taxId: builtTaxId, name: 'Example Gifts Ltd', address: ['1 High Street', 'London'] };
      const given = { issuer, currency: 'GBP', mode: 'hybrid', limits, series, serverUrl: 'https://127.0.0.1:1' };
      const grant = makeGrant(authority, given, null, directory, enrolledAtMs);
      const token = new BuiltToken();
      const certificate = await authority.certifyToken(token.spki, enrolledAtMs);
      const { charter, templates } = enrolmentOf(authority, grant, certificate, token.tokenId, enrolledAtMs);
      return new BuiltLedger(token, authority, certificate, [
        ['charter', charter],
        ...templates.map((template) => ['template', template] as const),
      ]);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  get origin() {
    return { certificate: this.certificate, authorityCertificate: Buffer.from(this.authority.certificate) };
  }

  add(drafts: readonly BuiltDraft[]): BuiltBatch {
    const batch = this.token.batch(drafts);
    this.batches.push(batch);
    return batch;
  }

  /** The next document of its series. */
  draft(change: Partial<InvoiceDocument> = {}): BuiltDraft {
    const kind = change.kind ?? 'invoice';
    const number = `${kind === 'invoice' ? 'A' : 'C'}-${String(++this.#counters[kind]).padStart(8, '0')}`;
    return { kind: 'document', change: { number, ...change } };
  }

  invoices(count: number): BuiltBatch {
    return this.add(Array.from({ length: count }, () => this.draft()));
  }

  /** An acknowledgement up to a batch, as an entry. */
  acknowledgement(upToBatch: number, headSealHash = this.batches[upToBatch - 1]?.head.sealHash ?? new Uint8Array(32)): BuiltDraft {
    const { tokenIdBytes } = this.token;
    const ack = { tokenId: tokenIdBytes, upToBatch, headSealHash, serverTimeMs: enrolledAtMs, parked: [] };
    const signed = this.authority.signAnswer(acknowledgementPayload(ack));
    const body = encodeAcknowledgementBody({ signed, releasedCount: 0, releasedAmount: '0', nextOldestMs: null });
    return { kind: 'body', entryKind: 'acknowledgement', body };
  }

  /** A certificate that renews the enrolment certificate, from `renewedAtMs` on for ten years. */
  async renewed(renewedAtMs: number): Promise<Uint8Array> {
    const { validFromDate } = new X509Certificate(this.certificate);
    return await this.authority.certifyToken(this.token.spki, renewedAtMs, this.token.tokenId, validFromDate.getTime());
  }

  /** The entry that carries one. */
  renewal(certificate: Uint8Array): BuiltDraft {
    const body = encodeAdminEvent({ event: 'certificate-renewed', certificate: Buffer.from(certificate).toString('base64') });
    return { kind: 'body', entryKind: 'admin', body };
  }

  evidenceOf(batch: BuiltBatch, index: number): Uint8Array {
    const entry = batch.entries[index];
    if (entry === undefined) throw new Error('no such entry');
    const path = inclusionPath(buildTree(batch.entries.map((one) => leafHash(one.leaf))), index);
    return encodeEvidence({ leaf: entry.leaf, index, count: batch.entries.length, path, sealBytes: batch.sealBytes });
  }

  /** Text of an evidence file, as `get --evidence` writes it. */
  evidenceFile(batch: BuiltBatch, index: number, certificate: Uint8Array = this.certificate): string {
    return encodeEvidenceFile({
      document: Buffer.from(batch.entries[index]?.body ?? []).toString('utf8'),
      evidence: Buffer.from(this.evidenceOf(batch, index)).toString('base64'),
      certificate: Buffer.from(certificate).toString('base64'),
      authorityCertificate: this.origin.authorityCertificate.toString('base64'),
    });
  }

  /** The JSON Lines of a server export. */
  exportLines(): string[] {
    const origin = { tokenId: this.token.tokenId, certificate: this.certificate.toString('base64') };
    const { authorityCertificate } = this.origin;
    return [
      JSON.stringify({ ...origin, authorityCertificate: authorityCertificate.toString('base64') }),
      ...this.batches.map(({ bytes }, at) => JSON.stringify({ batchIndex: at + 1, bytes: Buffer.from(bytes).toString('base64') })),
    ];
  }
}
