// Owns: what an enrolment ticket grants: the options of the charter that the token will get, and its templates; and the documents made of them.
// Invariants: everything is checked, by the readers that tokens use, when the ticket is made: a code that was handed out can be redeemed.
// Templates are copied into the grant, so that a file that changes later changes no ticket.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Charter, charterSchema, openCharter } from '#ipc-schema/charter.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check, instantText, nameText, z } from '#ipc-schema/schema.ts';
import { openTemplate, type Template, templateSchema } from '#ipc-schema/template.ts';
import { type Enrolment, enrolmentSchema } from '#ipc-schema/upstream.ts';
import type { Authority } from './authority.ts';
import { isErrno } from './key-file.ts';

const dayMs = 86_400_000;
/** A charter begins a little before it is made, for tokens whose clock is behind. */
const backdateMs = dayMs;
const defaultValidDays = 365;
const defaultKeepDays = 30;
const defaultTicketHours = 7 * 24;
const maxTemplates = 16;

const { issuer, currency, mode, limits, series, verifyUrl, keepDays, lockAfterIdleMinutes } = charterSchema.shape;

/** The charter's options, as a person writes them (`ticket --charter FILE.json`). */
export const grantOptionsSchema = z.strictObject({
  issuer,
  currency,
  mode,
  limits,
  /** Numbers are the token's own: two tokens of one issuer need different prefixes or ranges. */
  series,
  verifyUrl: verifyUrl.default(null),
  keepDays: keepDays.default(defaultKeepDays),
  lockAfterIdleMinutes,
  validFrom: instantText.optional(),
  validDays: z.int().min(1).max(36_500).default(defaultValidDays),
  /** URL under which the token reaches the server; default: the server's public URL. */
  serverUrl: z.url({ protocol: /^https$/ }).optional(),
  /** Seal the store's data key to the authority too, for recovery. */
  recovery: z.boolean().default(true),
  /** Names of bundled templates or of files in the data directory's `templates`, without `.json`. */
  templates: z.array(nameText).min(1).max(maxTemplates).default(['retail']),
  ticketHours: z.number().positive().max(8_760).default(defaultTicketHours),
});

export type GrantOptions = z.input<typeof grantOptionsSchema>;

const grantSchema = z.strictObject({
  options: grantOptionsSchema.required({ serverUrl: true }),
  templates: z.array(templateSchema).min(1).max(maxTemplates),
});

export type Grant = z.infer<typeof grantSchema>;

const bundledTemplates = join(import.meta.dirname, 'templates');

/** Options and templates, checked by signing and opening what they lead to. Throws invalid-request naming the field. */
export function makeGrant(authority: Authority, given: unknown, publicUrl: string | null, directory: string, nowMs: number): Grant {
  const options = check(grantOptionsSchema, given);
  const serverUrl = options.serverUrl ?? publicUrl;
  if (serverUrl === null)
    throw new UkeyError('invalid-request', 'serverUrl: the server has never run here, so its public URL is not known', {
      field: 'serverUrl',
    });
  const templates = options.templates.map((name) => readTemplate(directory, name));
  const grant = check(grantSchema, { options: { ...options, serverUrl }, templates });
  if (new Set(templates.map((template) => template.id)).size !== templates.length)
    throw new UkeyError('invalid-request', 'templates: an id stands twice', { field: 'templates' });
  for (const template of templates) {
    openTemplate(authority.signDocument(template), authority.publicKey);
    if (template.currency !== options.currency)
      throw new UkeyError('invalid-request', `templates: ${template.id} is in another currency than the charter`, { field: 'templates' });
  }
  openCharter(authority.signDocument(charterOf(authority, grant, '0'.repeat(32), nowMs)), authority.publicKey);
  return grant;
}

export function encodeGrant(grant: Grant): string {
  return JSON.stringify(grant);
}

export function decodeGrant(text: string): Grant {
  return check(grantSchema, JSON.parse(text), 'internal');
}

/** The charter of a token that redeems the grant now. */
export function charterOf(authority: Authority, grant: Grant, tokenId: string, nowMs: number): Charter {
  const { options } = grant;
  const fromMs = options.validFrom === undefined ? nowMs - backdateMs : Date.parse(options.validFrom);
  return {
    format: 'ukey-charter/1',
    serial: 1,
    tokenId,
    issuer: options.issuer,
    currency: options.currency,
    mode: options.mode,
    limits: options.limits,
    series: options.series,
    server: {
      url: options.serverUrl,
      tlsCertificate: base64(authority.certificate),
      ackKey: base64(authority.ackPublicKey.export({ type: 'spki', format: 'der' })),
      sealKey: base64(authority.uploadPublicKey),
      recoveryKey: options.recovery ? base64(authority.recoveryPublicKey) : null,
    },
    verifyUrl: options.verifyUrl,
    keepDays: options.keepDays,
    ...(options.lockAfterIdleMinutes === undefined ? {} : { lockAfterIdleMinutes: options.lockAfterIdleMinutes }),
    validFrom: new Date(fromMs).toISOString(),
    validUntil: new Date(nowMs + options.validDays * dayMs).toISOString(),
  };
}

/** The whole answer to an enrolment. */
export function enrolmentOf(authority: Authority, grant: Grant, certificate: Uint8Array, tokenId: string, nowMs: number): Enrolment {
  return check(enrolmentSchema, {
    certificate: base64(certificate),
    authorityCertificate: base64(authority.certificate),
    charter: base64(authority.signDocument(charterOf(authority, grant, tokenId, nowMs))),
    templates: grant.templates.map((template) => base64(authority.signDocument(template))),
  });
}

/** A file of the data directory stands before the bundled one of the same name. */
function readTemplate(directory: string, name: string): Template {
  for (const folder of [join(directory, 'templates'), bundledTemplates]) {
    try {
      return check(templateSchema, decodeJson(readFileSync(join(folder, `${name}.json`))));
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOENT')) throw thrown;
    }
  }
  throw new UkeyError('invalid-request', `templates: there is no template ${name}`, { field: 'templates' });
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}
