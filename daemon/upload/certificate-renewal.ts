// Owns: renewing the certificate of the KEY in force: asks the ticket server by a request that the KEY signs, and commits the answer as an entry.
// Invariants: one renewal at a time; what the server answers takes effect only once it is durable in the ledger, and until then the certificate before it
// counts. A crash at any step is mended by repeating: the request names the certificate that it renews, so the server answers the same one again.
// By itself only while the link is up, by the server's time; never on a till's way, and a failure stops nobody.
import { createHash, X509Certificate } from 'node:crypto';
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { checkRenewal } from '#ipc-schema/signers.ts';
import type { Link } from '#ipc-schema/status.ts';
import { type CertificateTerm, decideRenewal } from '#ledger/certificate-term.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { Upstream } from './upstream.ts';

export interface CertificateRenewalParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Log;
  link(): Link;
  /** The server's time; null: nothing is proven. */
  provenNowMs(): number | null;
}

export interface Renewed {
  readonly ledger: Ledger;
  readonly before: CertificateTerm;
  readonly after: CertificateTerm;
}

export class CertificateRenewal {
  readonly #parts: CertificateRenewalParts;
  #underWay: Promise<Renewed> | null = null;
  /** Of the ledger for which attempts failed in a row. */
  #failed: { readonly ledger: Ledger; readonly failures: number; readonly atMs: number } | null = null;

  constructor(parts: CertificateRenewalParts) {
    this.#parts = parts;
  }

  /** Now and then: renews where it is time. Never rejects. */
  async look(): Promise<void> {
    const { custody, clock, log, link, provenNowMs } = this.#parts;
    const { ledger } = custody;
    const nowMs = provenNowMs();
    if (ledger === null || nowMs === null || link() !== 'up' || this.#underWay !== null) return;
    if (ledger.charter === null || ledger.charter.mode === 'offline') return;
    const before = this.#failed?.ledger === ledger ? this.#failed : null;
    const sinceFailureMs = before === null ? 0 : clock.monotonicMs() - before.atMs;
    const facts = { term: ledger.certificateTerm, nowMs, failures: before?.failures ?? 0, sinceFailureMs };
    if (decideRenewal(facts) !== 'renew') return;
    try {
      await this.renew();
    } catch (error) {
      this.#failed = { ledger, failures: facts.failures + 1, atMs: clock.monotonicMs() };
      log.warn("the token's certificate was not renewed", { code: asUkeyError(error).code, why: whyOf(error) });
    }
  }

  /** Whoever asks while one is under way gets that one. Throws offline, forbidden (the server refuses), and the errors of ledger and holder. */
  renew(): Promise<Renewed> {
    this.#underWay ??= this.#renew().finally(() => {
      this.#underWay = null;
    });
    return this.#underWay;
  }

  async #renew(): Promise<Renewed> {
    const { custody, holder, log } = this.#parts;
    const ledger = await custody.use();
    const { charter, certificate: current, mount, certificateTerm: before } = ledger;
    if (charter === null) throw new UkeyError('halted', 'the ledger has no charter');
    const request = await holder.requestRenewal(createHash('sha256').update(current).digest());
    const next = await askServer(charter.server, request);
    checkRenewal(next, current, mount.tokenId, new X509Certificate(mount.authorityCertificate).publicKey);
    const body = encodeAdminEvent({ event: 'certificate-renewed', certificate: Buffer.from(next).toString('base64') });
    await ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: body.length, body: () => body });
    // Durable: every later opening finds it in the log, or carried. A crash before this line has changed nothing but at the server, which answers the same again.
    ledger.adopt({ certificate: next });
    this.#failed = null;
    const { certificateTerm: after } = ledger;
    log.info("the token's certificate is renewed", { until: new Date(after.untilMs).toISOString() });
    return { ledger, before, after };
  }
}

async function askServer(address: ConstructorParameters<typeof Upstream>[0], request: Uint8Array): Promise<Uint8Array> {
  const upstream = new Upstream(address);
  try {
    return await upstream.renew(request);
  } finally {
    upstream.close();
  }
}
