// Owns: the table of the local API's methods (SPEC.md, Methods): parameters, result, roles and errors of each. JSON Schema and openrpc.json are generated from it.
// Invariants: what is not in the table does not exist; fixed shapes keep their field names for ever; unknown fields are refused.

import { auditListParams, auditListSchema } from './audit.ts';
import type { ErrorCode } from './errors.ts';
import { invoiceRequestSchema, keyText } from './invoice.ts';
import { issuedSchema, previewSchema } from './issued.ts';
import { ledgerPageParams, ledgerPageSchema } from './ledger-page.ts';
import { restoredSchema, restoreParamsSchema } from './recovery.ts';
import { base64Text, instantText, nameText, text, z } from './schema.ts';
import { backlogStatusSchema, pinFacts, serviceStatusSchema, standingSchema } from './status.ts';
import { checkedSchema, resumedSchema, resumeParamsSchema } from './upkeep.ts';
import { enrolmentTicketSchema } from './upstream.ts';

export const roles = ['till', 'erp', 'operator', 'admin', 'auditor'] as const;
export type Role = (typeof roles)[number];
/** Roles that a terminal may be enrolled with; operator and admin come through the admin door. */
export const terminalRoles = ['till', 'erp', 'auditor'] as const;

export const protocolVersion = 1;

const standing = standingSchema;
const count = z.int().min(0);
/** Of several tokens, the one that is meant: its name in the service's configuration, or the tax id of its issuer where that has only one. */
const tokenChoice = { token: nameText.optional(), issuer: text(1, 64).optional() };
const choice = z.strictObject(tokenChoice);

export const eventNames = ['standing', 'issued', 'acknowledged', 'link', 'limit', 'store', 'alarm'] as const;
export type EventName = (typeof eventNames)[number];

export interface Method {
  readonly summary: string;
  readonly roles: readonly Role[];
  readonly params: z.ZodType;
  readonly result: z.ZodType;
  /** Codes that this method adds to those that any method may answer (commonErrors). */
  readonly errors: readonly ErrorCode[];
}

export const commonErrors = [
  'invalid-request',
  'unknown-method',
  'unauthenticated',
  'forbidden',
  'busy',
  'too-large',
  'internal',
] as const satisfies readonly ErrorCode[];

const everyone = roles;
const issuers = ['till', 'erp'] as const;
const staff = ['operator', 'admin'] as const;
const readers = ['till', 'erp', 'operator', 'admin', 'auditor'] as const;
const holding = ['locked', 'no-token', 'token-failed', 'halted'] as const satisfies readonly ErrorCode[];
const issuing = [
  ...holding,
  'invalid-invoice',
  'template-unknown',
  'template-expired',
  'key-reused',
  'not-found',
  'limit-hours',
  'limit-count',
  'limit-amount',
  'limit-single',
  'limit-deadline',
  'range-exhausted',
  'credit-exceeds',
  'offline',
  'store-full',
  'clock-untrusted',
  'unknown-outcome',
] as const satisfies readonly ErrorCode[];

const newPinText = z.string().min(4).max(64);
/** How it stands with the user PIN afterwards. */
const pinResultSchema = z.strictObject({ standing, ...pinFacts });

const which = z
  .union([
    z.strictObject({ key: keyText, ...tokenChoice }),
    z.strictObject({ number: text(1, 64), ...tokenChoice }),
    z.strictObject({ sequence: z.int().min(1), ...tokenChoice }),
  ])
  .meta({ description: 'exactly one of key (of the asking terminal), number, sequence' });

export const methods = {
  hello: {
    summary: 'Opens the conversation: versions, and the challenge that authenticate answers.',
    roles: everyone,
    params: z.strictObject({ version: z.literal(protocolVersion), client: text(1, 100) }),
    result: z.strictObject({ version: z.literal(protocolVersion), server: z.string(), challenge: z.string(), standing }),
    errors: [],
  },
  authenticate: {
    summary: "Proves the terminal's secret, and the service's in return.",
    roles: everyone,
    params: z.strictObject({ terminal: nameText, nonce: z.string().regex(/^[0-9a-f]{32,64}$/), mac: z.string().regex(/^[0-9a-f]{64}$/) }),
    result: z.strictObject({ role: z.enum(roles), mac: z.string() }),
    errors: [],
  },
  'invoice.issue': {
    summary:
      'Issues an invoice or credit note, once per key; the answer comes when it is durable (with `wait`: acknowledged, or after 20 s, or at once while the link is down).',
    roles: issuers,
    params: invoiceRequestSchema.extend(tokenChoice),
    result: issuedSchema,
    errors: issuing,
  },
  'invoice.preview': {
    summary: 'The same checks and totals; nothing is committed.',
    roles: issuers,
    params: invoiceRequestSchema.extend(tokenChoice),
    result: previewSchema,
    errors: issuing,
  },
  'invoice.get': {
    summary: 'One issued document with its evidence.',
    roles: readers,
    params: which,
    result: issuedSchema,
    errors: [...holding, 'not-found'],
  },
  'invoice.last': {
    summary: 'The newest document of the asking terminal (of the token, for staff and auditors).',
    roles: readers,
    params: choice,
    result: issuedSchema,
    errors: [...holding, 'not-found'],
  },
  'ledger.read': {
    summary: 'Sealed batches as the token keeps them, a page at a time: from a batch, a sequence, or the oldest that is kept.',
    roles: ['erp', 'operator', 'admin', 'auditor'],
    params: ledgerPageParams.extend(tokenChoice),
    result: ledgerPageSchema,
    errors: [...holding, 'not-found'],
  },
  'audit.list': {
    summary: 'Admin entries of the ledger, newest first: what was done to the service and its token, and by whom.',
    roles: ['operator', 'admin', 'auditor'],
    params: auditListParams.extend(tokenChoice),
    result: auditListSchema,
    errors: [...holding],
  },
  'session.login': {
    summary:
      'Unlocks the token with its PIN. The last try is spent only with useLastTry. `checked` is false where the token was open already.',
    roles: staff,
    params: z.strictObject({ ...tokenChoice, pin: z.string().min(1).max(64), useLastTry: z.boolean().optional() }),
    /** `checked` false: the token was open already, and this PIN was not looked at. */
    result: z.strictObject({ standing, triesLeft: count.nullable(), checked: z.boolean() }),
    errors: ['pin-incorrect', 'pin-last-try', 'pin-locked', 'no-token', 'token-failed', 'halted'],
  },
  'session.logout': {
    summary: 'Locks the token and wipes the data key.',
    roles: staff,
    params: choice,
    result: z.strictObject({ standing }),
    errors: ['no-token', 'token-failed'],
  },
  'session.changePin': {
    summary: 'Gives the token a new PIN for the old one, locked or open. One try of the old PIN; the last one only with useLastTry.',
    roles: staff,
    params: z.strictObject({ ...tokenChoice, pin: z.string().min(1).max(64), newPin: newPinText, useLastTry: z.boolean().optional() }),
    result: pinResultSchema,
    errors: ['pin-incorrect', 'pin-last-try', 'pin-locked', 'no-token', 'token-failed', 'halted'],
  },
  'session.unblock': {
    summary: 'Gives a locked token a new PIN by its SO-PIN (PUK), with all tries. One try of the SO-PIN, never its last one.',
    roles: staff,
    params: z.strictObject({ ...tokenChoice, soPin: z.string().min(1).max(64), newPin: newPinText }),
    result: pinResultSchema,
    errors: ['pin-incorrect', 'pin-last-try', 'pin-locked', 'no-token', 'token-failed', 'halted'],
  },
  'backlog.status': {
    summary: 'What waits for the ticket server, and why.',
    roles: readers,
    params: choice,
    result: backlogStatusSchema,
    errors: [...holding],
  },
  'backlog.flush': {
    summary: 'Probes and uploads now instead of at the next time of the timetable.',
    roles: ['erp', 'operator', 'admin'],
    params: choice,
    result: backlogStatusSchema,
    errors: [...holding, 'offline'],
  },
  'service.status': {
    summary: 'Standing, reason, who must act, and the figures behind it.',
    roles: readers,
    params: choice,
    result: serviceStatusSchema,
    errors: [],
  },
  'service.tokens': {
    summary: 'The tokens that the service is for, each with its standing; of a terminal that may use one only, that one.',
    roles: readers,
    params: z.strictObject({}),
    result: z.strictObject({
      tokens: z.array(
        z.strictObject({
          /** Name in the configuration. */
          token: z.string(),
          /** Null where no ledger is open. */
          tokenId: z.string().nullable(),
          /** As the configuration says, else as the open ledger's charter does. */
          issuer: z.string().nullable(),
          standing,
          reason: z.string(),
          action: z.string(),
        }),
      ),
    }),
    errors: [],
  },
  'service.identity': {
    summary: "The token's certificates: what a verifier needs.",
    roles: readers,
    params: choice,
    result: z.strictObject({
      tokenId: z.string(),
      /** Of the key in force: its newest. */
      certificate: base64Text,
      /** Of the first key, as it was enrolled: its hash stands before the first seal. */
      enrolmentCertificate: base64Text,
      authorityCertificate: base64Text,
      /** The keys that sealed the ledger before it, oldest first, each with the certificate that it began with; a seal names its own. */
      predecessors: z.array(z.strictObject({ fromBatch: z.int().min(1), certificate: base64Text })),
    }),
    errors: [...holding],
  },
  'events.subscribe': {
    summary: 'From now on events are sent on this connection as notifications.',
    roles: readers,
    params: z.strictObject({ events: z.array(z.enum(eventNames)).max(eventNames.length).optional() }),
    result: z.strictObject({ events: z.array(z.enum(eventNames)) }),
    errors: [],
  },
  'token.provision': {
    summary: 'Makes a blank token ready: PIN, keys, enrolment at the ticket server, FLASH formatted, charter and templates committed.',
    roles: ['admin'],
    params: z.strictObject({
      ...tokenChoice,
      label: text(1, 32),
      pin: z.string().min(4).max(64),
      soPin: z.string().min(4).max(64),
      ticket: enrolmentTicketSchema,
      /** A FLASH that is not blank may be formatted; one that holds a ledger only where that ledger's token id is named besides. */
      erase: z.boolean().optional(),
      eraseLedger: z
        .string()
        .regex(/^[0-9a-f]{32}$/)
        .optional(),
    }),
    result: z.strictObject({ standing, tokenId: z.string(), keyWrapping: z.string() }),
    errors: ['no-token', 'token-failed', 'halted', 'offline'],
  },
  'token.handOver': {
    summary:
      'The token gives its ledger up as planned: what was taken is sealed, then the entry that hands it over, and the token is closed. Its KEY issues nothing more; another one goes on by store.restore.',
    roles: ['admin'],
    params: choice,
    result: z.strictObject({
      standing,
      tokenId: z.string(),
      batches: count,
      entries: count,
      /** Documents that the ticket server has not acknowledged; the next KEY uploads them. */
      pending: count,
      /** What the next KEY is to be restored from: the FLASH where there is no mirror, or one that has not got everything. */
      copy: z.enum(['mirror', 'flash']),
    }),
    errors: [...holding, 'unknown-outcome', 'store-full'],
  },
  'token.takeBack': {
    summary: 'The KEY that handed its ledger over goes on with it after all: only where no other one has. Unlocks the token with its PIN.',
    roles: ['admin'],
    params: z.strictObject({ ...tokenChoice, pin: z.string().min(1).max(64), useLastTry: z.boolean().optional() }),
    result: z.strictObject({ standing }),
    errors: ['pin-incorrect', 'pin-last-try', 'pin-locked', ...holding, 'unknown-outcome', 'store-full'],
  },
  'token.renewCertificate': {
    summary:
      "Renews the certificate of the token's key at the ticket server now: the same key, a later end. The service does it by itself long before the end.",
    roles: ['admin'],
    params: choice,
    result: z.strictObject({ standing, tokenId: z.string(), previousExpires: instantText, expires: instantText }),
    errors: [...holding, 'offline', 'unknown-outcome', 'store-full'],
  },
  'store.restore': {
    summary:
      'Makes a lost FLASH anew from a copy (the mirror, or the FLASH of a dead KEY): for the same KEY, or by a recovery ticket for another one that goes on with the ledger. Takes minutes; may be repeated.',
    roles: ['admin'],
    params: restoreParamsSchema.extend(tokenChoice),
    result: restoredSchema.extend({ standing }),
    errors: ['pin-incorrect', 'pin-last-try', 'pin-locked', 'no-token', 'token-failed', 'halted', 'offline'],
  },
  'store.check': {
    summary:
      'Reads one segment of the store on FLASH and mirror, while tills go on; with heal it is put right from one another and from the ticket server. From the first on, then from each nextRun, it is the whole.',
    roles: staff,
    params: z.strictObject({ ...tokenChoice, fromRun: z.int().min(1).optional(), heal: z.boolean().optional() }),
    result: checkedSchema,
    errors: [...holding, 'unknown-outcome', 'store-full'],
  },
  'store.mend': {
    summary:
      "Puts batches back from the ticket server's copies into a store that damage keeps from opening, only where they are proven to be the very ones that stood there, and opens it. Without a PIN it only says whether there is anything to mend: locked then.",
    roles: ['admin'],
    params: z.strictObject({ ...tokenChoice, pin: z.string().min(1).max(64).optional(), useLastTry: z.boolean().optional() }),
    result: z.strictObject({
      standing,
      /** Put back from the ticket server's copies; none where the mirror had all that was missing. */
      mended: z.array(z.int().min(1)),
    }),
    errors: ['pin-incorrect', 'pin-last-try', 'pin-locked', 'no-token', 'token-failed', 'locked', 'halted', 'offline', 'unknown-outcome'],
  },
  'store.resume': {
    summary:
      "Brings a FLASH that is older than what KEY or ticket server have seen up to date from the server's copies, and the ledger goes on.",
    roles: ['admin'],
    params: resumeParamsSchema.extend(tokenChoice),
    result: resumedSchema.extend({ standing }),
    errors: [
      'pin-incorrect',
      'pin-last-try',
      'pin-locked',
      'no-token',
      'token-failed',
      'locked',
      'halted',
      'offline',
      'store-full',
      'unknown-outcome',
    ],
  },
  'terminal.enrol': {
    summary: 'Enrols a terminal and answers its secret, once. One that is enrolled already keeps its secret, unless replace is set.',
    roles: ['admin'],
    params: z.strictObject({
      terminal: nameText,
      role: z.enum(terminalRoles),
      /** Name of the only token that it may use; it need not name one then. */
      token: nameText.optional(),
      /** Of one that is enrolled already: a new secret, role and token; whoever has the old secret is locked out. */
      replace: z.boolean().optional(),
    }),
    result: z.strictObject({ terminal: z.string(), role: z.enum(terminalRoles), token: z.string().optional(), secret: z.string() }),
    errors: ['halted'],
  },
  'terminal.list': {
    summary: 'Enrolled terminals, without their secrets.',
    roles: staff,
    params: z.strictObject({}),
    result: z.strictObject({
      terminals: z.array(z.strictObject({ terminal: z.string(), role: z.enum(terminalRoles), token: z.string().optional() })),
    }),
    errors: [],
  },
  'terminal.remove': {
    summary: 'Forgets a terminal; its open connections are closed at their next request or event, and within a second.',
    roles: ['admin'],
    params: z.strictObject({ terminal: nameText }),
    result: z.strictObject({ terminal: z.string() }),
    errors: ['not-found', 'halted'],
  },
} as const satisfies Record<string, Method>;

export type Methods = typeof methods;
export type MethodName = keyof Methods;
export type Params<M extends MethodName> = z.infer<Methods[M]['params']>;
export type Result<M extends MethodName> = z.infer<Methods[M]['result']>;

export function isMethodName(name: string): name is MethodName {
  return Object.hasOwn(methods, name);
}

/** What the service answers as a whole. All other methods are about one token, and take `token` and `issuer`. */
export const wholeMethods = [
  'hello',
  'authenticate',
  'events.subscribe',
  'service.tokens',
  'terminal.enrol',
  'terminal.list',
  'terminal.remove',
] as const satisfies readonly MethodName[];
export type TokenMethod = Exclude<MethodName, (typeof wholeMethods)[number]>;

export function isTokenMethod(name: MethodName): name is TokenMethod {
  return !(wholeMethods as readonly string[]).includes(name);
}
