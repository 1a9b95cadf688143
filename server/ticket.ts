// Owns: enrolment tickets: making one (a one-time code and what it grants, durable before it is shown) and redeeming it for a token's key.
// Invariants: a code is 128 random bits and stands in the database only as its hash; it is used up in the same transaction that adds the token;
// the key that used it may ask again and gets the very same answer, any other key is refused; a key is enrolled once, for ever, because
// the chain of its seals begins at one certificate.
import { createHash, randomBytes } from 'node:crypto';
import { keyIdOfSpki } from '#ipc-schema/cose.ts';
import { encodeBase32 } from '#ipc-schema/evidence.ts';
import { type EnrolmentRequest, type EnrolmentTicket, openEnrolment, type Refusal } from '#ipc-schema/upstream.ts';
import { type Authority, acceptableKey } from './authority.ts';
import type { Database } from './database.ts';
import { decodeGrant, encodeGrant, enrolmentOf, makeGrant } from './grant.ts';
import type { Log } from './log.ts';
import { refusalOf, refuse } from './refusal.ts';

const codeBytes = 16;
const hourMs = 3_600_000;

export interface TicketParts {
  readonly directory: string;
  readonly authority: Authority;
  readonly database: Database;
  readonly log: Log;
  readonly wallMs: () => number;
}

/** `options`: GrantOptions of grant.ts, checked here. Throws invalid-request naming the field. */
export async function makeTicket(parts: TicketParts, options: unknown, publicUrl: string | null): Promise<EnrolmentTicket> {
  const { authority, database, directory, wallMs } = parts;
  const nowMs = wallMs();
  const grant = makeGrant(authority, options, publicUrl, directory, nowMs);
  const code = encodeBase32(randomBytes(codeBytes));
  await database.addCode({
    codeHash: codeHashOf(code),
    grant: encodeGrant(grant),
    madeAtMs: nowMs,
    expiresAtMs: Math.floor(nowMs + grant.options.ticketHours * hourMs),
  });
  return {
    format: 'ukey-enrolment-ticket/1',
    url: grant.options.serverUrl,
    tlsCertificate: Buffer.from(authority.certificate).toString('base64'),
    authorityFingerprint: authority.fingerprint,
    code,
    prefixes: [...new Set(grant.options.series.map(({ prefix }) => prefix))],
    issuer: grant.options.issuer.taxId,
  };
}

export type EnrolmentAnswer =
  /** `json`: enrolmentSchema. */
  { readonly kind: 'enrolled'; readonly json: string } | { readonly kind: 'refused'; readonly refusal: Refusal };

/** Redeems a code for the key that signed the request. */
export async function redeem(parts: TicketParts, body: Uint8Array): Promise<EnrolmentAnswer> {
  let request: EnrolmentRequest;
  try {
    request = openEnrolment(body);
    acceptableKey(request.spki);
  } catch (thrown) {
    return { kind: 'refused', refusal: refusalOf(thrown) };
  }
  const tokenId = Buffer.from(keyIdOfSpki(request.spki)).toString('hex');
  const codeHash = codeHashOf(request.code);
  const first = await tryRedeem(parts, request, tokenId, codeHash);
  // Lost a race: another request used the code between our look and our transaction. If that was the same key, its answer is ours.
  const answer = first ?? (await tryRedeem(parts, request, tokenId, codeHash)) ?? unknownCode;
  if (answer.kind === 'refused') parts.log('warn', 'enrolment-refused', { tokenId, code: answer.refusal.code });
  return answer;
}

/** Says the same of a code that never was, is too old, or is another's: it tells a guesser nothing. */
const unknownCode: EnrolmentAnswer = { kind: 'refused', refusal: refuse('code-unknown', 'the code is not known, used up or too old') };

async function tryRedeem(
  parts: TicketParts,
  request: EnrolmentRequest,
  tokenId: string,
  codeHash: string,
): Promise<EnrolmentAnswer | null> {
  const { authority, database, log } = parts;
  const nowMs = parts.wallMs();
  const code = await database.findCode(codeHash);
  if (code === null) return unknownCode;
  if (code.used !== null) return code.used.tokenId === tokenId ? { kind: 'enrolled', json: code.used.answer } : unknownCode;
  if (nowMs >= code.expiresAtMs) return unknownCode;
  const grant = decodeGrant(code.grant);
  const certificate = await authority.certifyToken(request.spki, nowMs);
  const json = JSON.stringify(enrolmentOf(authority, grant, certificate, tokenId, nowMs));
  const { taxId: issuerTaxId, name: issuerName } = grant.options.issuer;
  const token = { tokenId, serial: request.serial, issuerTaxId, issuerName, spki: request.spki, certificate, enrolledAtMs: nowMs };
  const enrolled = await database.enrol(codeHash, token, json);
  switch (enrolled) {
    case 'enrolled':
      // Durable now. A crash before the answer leaves is mended by the same key asking again with the same code.
      log('info', 'token-enrolled', { tokenId, serial: request.serial });
      return { kind: 'enrolled', json };
    case 'token-known':
      return { kind: 'refused', refusal: refuse('bad-request', 'this key is enrolled already; the code was not used') };
    case 'code-used':
      return null;
  }
}

function codeHashOf(code: string): string {
  return createHash('sha256').update(code, 'utf8').digest('hex');
}
