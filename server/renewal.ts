// Owns: renewing the certificate of a key that has a ledger: the same key, the same beginning, a later end.
// Invariants: only the key whose turn it is, with proof that it is there, while its certificate lasts and no alarm stands against its token; a request names
// the certificate that it renews, and whoever repeats it gets the same one again, however often. What is answered is durable before.
import { keyIdOfSpki } from '#ipc-schema/cose.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { openRenewalRequest, type RenewalRequest } from '#ipc-schema/renewal.ts';
import { newestSigner, readCertificate, type Signer } from '#ipc-schema/signers.ts';
import type { Refusal } from '#ipc-schema/upstream.ts';
import { acceptableKey } from './authority.ts';
import type { RenewalRecord, TokenState } from './database.ts';
import { refusalOf, refuse } from './refusal.ts';
import { signersFor } from './signing.ts';
import type { TicketParts } from './ticket.ts';

/** A renewal that gains less is refused, so that a key cannot fill the database with its certificates. */
export const renewalMinGainMs = 24 * 3_600_000;

export type RenewalAnswer =
  /** DER. */
  { readonly kind: 'renewed'; readonly certificate: Uint8Array } | { readonly kind: 'refused'; readonly refusal: Refusal };

export async function renew(parts: TicketParts, body: Uint8Array): Promise<RenewalAnswer> {
  try {
    const request = openRenewalRequest(body);
    acceptableKey(request.spki);
    const first = await tryRenew(parts, request);
    // Lost a race against a succession or a twin of this request: judged once more on what is stored now.
    const outcome = first ?? (await tryRenew(parts, request)) ?? refuse('busy', 'the same token is being served elsewhere');
    if (outcome instanceof Uint8Array) return { kind: 'renewed', certificate: outcome };
    parts.log('warn', 'renewal-refused', { tokenId: hex(request.tokenId), code: outcome.code, why: outcome.message });
    return { kind: 'refused', refusal: outcome };
  } catch (thrown) {
    return { kind: 'refused', refusal: refusalOf(thrown) };
  }
}

/** The newest certificate (DER) of a key of this token. */
export function certificateInForce({ certificate, keyId }: Signer, renewals: readonly RenewalRecord[]): Uint8Array {
  return renewals.findLast((one) => one.keyId === hex(keyId))?.certificate ?? certificate;
}

async function tryRenew(parts: TicketParts, { spki, tokenId: id, certificateHash }: RenewalRequest): Promise<Uint8Array | Refusal | null> {
  const { authority, database, log, wallMs } = parts;
  const tokenId = hex(id);
  const token = await database.findToken(tokenId);
  if (token === null) return refuse('unknown-token', 'the token is not enrolled here');
  const { signers, all } = await signersFor(parts, token);
  const signer = newestSigner(signers);
  const refusal = whyNot(token, all, signer, hex(keyIdOfSpki(spki)));
  if (refusal !== null) return refusal;
  const renewals = await database.renewals(tokenId);
  const repeated = renewals.find(({ renewedHash }) => same(renewedHash, certificateHash));
  if (repeated !== undefined && repeated.keyId === hex(signer.keyId)) return repeated.certificate;
  const current = certificateInForce(signer, renewals);
  if (!same(sha256(current), certificateHash)) return refuse('bad-request', 'the request renews another certificate than the one in force');
  const nowMs = wallMs();
  const { validFromDate, validToDate } = readCertificate(current);
  if (nowMs >= validToDate.getTime()) return refuse('not-renewable', `the certificate has ended, at ${validToDate.toISOString()}`);
  const certificate = await authority.certifyToken(spki, nowMs, tokenId, validFromDate.getTime());
  const untilMs = readCertificate(certificate).validToDate.getTime();
  if (untilMs < validToDate.getTime() + renewalMinGainMs)
    return refuse('not-renewable', `a new certificate would not end later than the one in force, at ${validToDate.toISOString()}`);
  const serial = renewals.length + 1;
  const record = { serial, keyId: hex(signer.keyId), renewedHash: certificateHash, certificate, madeAtMs: nowMs };
  // Durable before it is answered: a lost answer is asked for again, and is the same.
  if ((await database.renew(tokenId, record, all.at(-1)?.serial ?? 0)) === 'moved') return null;
  log('info', 'certificate-renewed', { tokenId, keyId: record.keyId, serial, until: new Date(untilMs).toISOString() });
  return certificate;
}

function whyNot({ alarm }: TokenState, all: readonly Signer[], signer: Signer, keyId: string): Refusal | null {
  if (!all.some((one) => hex(one.keyId) === keyId)) return refuse('unknown-token', 'the key is none of this ledger');
  if (hex(signer.keyId) !== keyId) return refuse('fork', 'another key goes on with this ledger');
  if (alarm !== null) return refuse('fork', 'an alarm stands against this token: a second copy of it has issued');
  return null;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
