// Owns: the errand token.provision: a blank token becomes an issuing one: PIN and keys, enrolment at the ticket server, FLASH formatted, charter and
// templates committed as the first entries.
// Invariants: a ticket that names another issuer than the place's is refused before anything is made; nothing of the server's answer is used before it is checked against the ticket (authority's fingerprint) and the token's own key; the
// answer is kept durably before the FLASH is formatted, so that a crash in between is finished at the next opening (`finish`).
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { writeDurably } from '#ground/durable-file.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, Mount } from '#holder/holder.ts';
import { type Charter, openCharter } from '#ipc-schema/charter.ts';
import { keyIdOf, keyIdOfSpki } from '#ipc-schema/cose.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { check } from '#ipc-schema/schema.ts';
import { openTemplate, type Template } from '#ipc-schema/template.ts';
import { type Enrolment, type EnrolmentTicket, enrolmentSchema, openEnrolment } from '#ipc-schema/upstream.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { Upstream } from '#upload/upstream.ts';
import { BegunProvisioning } from './begun-provisioning.ts';

export interface ProvisionParts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly stateDirectory: string;
  readonly log: Log;
  /** Tax id of the issuer that the place is for; null: any. */
  readonly issuer: string | null;
}

export interface CheckedEnrolment {
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array;
  readonly tokenIdHex: string;
  readonly charter: { readonly signed: Uint8Array; readonly content: Charter };
  readonly templates: readonly { readonly signed: Uint8Array; readonly content: Template }[];
}

export async function provision(parts: ProvisionParts, params: Params<'token.provision'>): Promise<Result<'token.provision'>> {
  const { ticket } = params;
  refuseForeignTicket(parts, ticket, 'ticket');
  const consent = { erase: params.erase === true, ...(params.eraseLedger === undefined ? {} : { eraseLedger: params.eraseLedger }) };
  const begun = new BegunProvisioning(parts.stateDirectory, ticket.code);
  const pending = readPending(parts)?.tokenIdHex ?? null;
  const repeat = consent.erase ? 'any' : begun.mayRepeat(pending);
  begun.begin();
  let request: Uint8Array;
  try {
    request = await parts.holder.provision({
      label: params.label,
      pin: Buffer.from(params.pin, 'utf8'),
      soPin: Buffer.from(params.soPin, 'utf8'),
      code: ticket.code,
      repeat,
      consent,
    });
  } catch (error) {
    // Refused before anything was made.
    if (['invalid-request', 'halted'].includes(asUkeyError(error).code)) begun.takeBack();
    throw error;
  }
  begun.hasKeys(Buffer.from(keyIdOfSpki(openEnrolment(request).spki)).toString('hex'));
  const enrolled = await enrolAt(ticket, request);
  const mount = await formatFor(parts, enrolled, consent);
  begun.end();
  await parts.custody.use(); // opening the ledger has committed charter and templates (`finish`)
  return { standing: parts.custody.standing().standing, tokenId: enrolled.checked.tokenIdHex, keyWrapping: mount.keyWrapping };
}

/** Before keys are made and the code is used up at the server; a ticket that does not name its issuer is known by its charter only. */
export function refuseForeignTicket({ issuer }: ProvisionParts, ticket: EnrolmentTicket, field: string): void {
  if (issuer !== null && ticket.issuer !== undefined && ticket.issuer !== issuer) throw foreign(ticket.issuer, issuer, field);
}

/** Before the FLASH is formatted: with the right issuer in the configuration the same ticket goes on. */
function refuseForeign({ issuer }: ProvisionParts, charter: Charter): void {
  if (issuer !== null && charter.issuer.taxId !== issuer) throw foreign(charter.issuer.taxId, issuer, 'ticket');
}

function foreign(found: string, wanted: string, field: string): UkeyError {
  return new UkeyError('invalid-request', `${field}: its charter is for the issuer ${found}, and this place is for ${wanted}`, {
    field,
    action: 'Correct the issuer of this token in the configuration and repeat, or use a ticket of the issuer that stands there.',
  });
}

export interface Enrolled {
  readonly enrolment: Enrolment;
  readonly checked: CheckedEnrolment;
}

/** At the ticket's server; the same key may ask again. Nothing is kept here. Throws offline, forbidden, invalid-request. */
export async function enrolAt(ticket: EnrolmentTicket, request: Uint8Array): Promise<Enrolled> {
  const upstream = new Upstream(ticket);
  try {
    const enrolment = await upstream.enrol(request);
    return { enrolment, checked: checkEnrolment(enrolment, ticket) };
  } finally {
    upstream.close();
  }
}

/** Keeps the answer durably, then formats the FLASH: what is cut short behind that, is finished when the ledger opens. */
export async function formatFor(
  parts: ProvisionParts,
  { enrolment, checked }: Enrolled,
  consent: { readonly erase: boolean; readonly eraseLedger?: string },
): Promise<Mount> {
  refuseForeign(parts, checked.charter.content);
  writeDurably(pendingFile(parts), JSON.stringify(enrolment));
  const { recoveryKey } = checked.charter.content.server;
  return await parts.holder.format({
    certificate: checked.certificate,
    authorityCertificate: checked.authorityCertificate,
    recoveryKey: recoveryKey === null ? null : Buffer.from(recoveryKey, 'base64'),
    ...consent,
  });
}

/** Commits charter and templates to a ledger that has none yet. Also after a crash between formatting and here. */
export async function finish(parts: ProvisionParts, ledger: Ledger): Promise<void> {
  if (ledger.charter !== null) return;
  const checked = readPending(parts);
  if (checked === null || checked.tokenIdHex !== Buffer.from(ledger.mount.tokenId).toString('hex')) {
    parts.log.warn('the ledger has no charter and no enrolment waits for it');
    return;
  }
  const documents = [
    { kind: 'charter' as const, signed: checked.charter.signed },
    ...checked.templates.map(({ signed }) => ({ kind: 'template' as const, signed })),
  ];
  // One batch: together they are far below its bounds, so that a crash leaves all of them or none.
  await Promise.all(
    documents.map(({ kind, signed }) => ledger.addOwn({ kind: 'own', entryKind: kind, bodyMaxBytes: signed.length, body: () => signed })),
  );
  ledger.adopt({ charter: checked.charter.content });
  for (const { content } of checked.templates) ledger.adopt({ template: content });
  rmSync(pendingFile(parts), { force: true });
}

function pendingFile(parts: ProvisionParts): string {
  return path.join(parts.stateDirectory, 'pending-enrolment.json');
}

function readPending(parts: ProvisionParts): CheckedEnrolment | null {
  try {
    return checkEnrolment(check(enrolmentSchema, decodeJson(readFileSync(pendingFile(parts)))), null);
  } catch (error) {
    parts.log.debug('no enrolment is pending', { why: whyOf(error) });
    return null;
  }
}

/** Throws invalid-request when anything in the answer does not fit together. */
function checkEnrolment(enrolment: Enrolment, ticket: EnrolmentTicket | null): CheckedEnrolment {
  const certificate = Buffer.from(enrolment.certificate, 'base64');
  const authorityCertificate = Buffer.from(enrolment.authorityCertificate, 'base64');
  if (ticket !== null && createHash('sha256').update(authorityCertificate).digest('hex') !== ticket.authorityFingerprint) {
    throw new UkeyError('invalid-request', 'the server answers for another authority than the enrolment ticket names', {
      field: 'ticket.authorityFingerprint',
    });
  }
  const authority = new X509Certificate(authorityCertificate);
  const token = new X509Certificate(certificate);
  if (!token.verify(authority.publicKey)) throw new UkeyError('invalid-request', "the token's certificate is not the authority's");
  const tokenIdHex = Buffer.from(keyIdOf(token.publicKey)).toString('hex');
  const signedCharter = Buffer.from(enrolment.charter, 'base64');
  const charter = openCharter(signedCharter, authority.publicKey);
  if (charter.tokenId !== tokenIdHex) throw new UkeyError('invalid-request', 'the charter is for another token');
  const templates = enrolment.templates.map((text) => {
    const signed = Buffer.from(text, 'base64');
    return { signed, content: openTemplate(signed, authority.publicKey) };
  });
  return { certificate, authorityCertificate, tokenIdHex, charter: { signed: signedCharter, content: charter }, templates };
}
