// Owns: the shapes in which the service tells how it stands: standing, link, budget, token, store, backlog (SPEC.md, Methods, service.status).
// Invariants: null where something is not known or not there, never zero; units stand in the names.
import { decimalText, instantText, sumText, z } from './schema.ts';

export const standings = [
  'issuing-online',
  'issuing-offline',
  'locked',
  'no-token',
  'limit-reached',
  'store-full',
  'clock-untrusted',
  'halted',
] as const;
export type Standing = (typeof standings)[number];

/** Whether a till gets a document now. */
export function isIssuing(standing: Standing): boolean {
  return standing === 'issuing-online' || standing === 'issuing-offline';
}

export const links = ['unknown', 'up', 'down'] as const;
export type Link = (typeof links)[number];

export const standingSchema = z.enum(standings);
const count = z.int().min(0);

/** What is left of the offline limits; null where the charter sets none. */
export const budgetSchema = z.strictObject({
  hoursLeft: z.number().nullable(),
  countLeft: count.nullable(),
  amountLeft: sumText.nullable(),
  /** Largest single total allowed. */
  single: decimalText.nullable(),
  /** The limit that is used most, in percent, rounded down. */
  usedPercent: z.number().min(0),
});
export type Budget = z.infer<typeof budgetSchema>;

/** What is known of the PIN that the service was given for logging in by itself. `wrong`: refused once, or the token's PIN is another now; not tried until the file changes. */
export const storedPins = ['none', 'unknown', 'works', 'wrong'] as const;
export type StoredPin = (typeof storedPins)[number];
export const pinFacts = { triesLeft: count.nullable(), pinState: z.enum(['ok', 'low', 'last', 'locked']), storedPin: z.enum(storedPins) };

export const tokenStatusSchema = z.strictObject({
  module: z.string(),
  label: z.string(),
  serial: z.string(),
  model: z.string(),
  tokenId: z.string().nullable(),
  /** End of the certificate of the KEY in force. */
  certificateExpires: instantText.nullable(),
  ...pinFacts,
  signatures: count,
  meanSignMs: z.number().min(0).nullable(),
  /** Since the service started: signatures that failed, and how often the token's process was replaced because it hung or died. */
  signFailures: count,
  restarts: count,
  lastFailure: z.string().nullable(),
  lastFailureAt: instantText.nullable(),
  /** The last good self test; one is made now and then while no till asks. */
  selfTestAt: instantText.nullable(),
});
export type TokenStatus = z.infer<typeof tokenStatusSchema>;

/**
 * When the FLASH is full at the rate of the last days: `fills`, in so many days; `steady`, never, because as much is acknowledged and past its keep-time as
 * comes; `unknown`, less than an hour is known.
 */
const forecastSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('unknown') }),
  z.strictObject({ kind: z.literal('steady') }),
  z.strictObject({ kind: z.literal('fills'), daysLeft: z.number().min(0) }),
]);

export const storeStatusSchema = z.strictObject({
  path: z.string(),
  sizeBytes: count,
  usedBytes: count,
  /** Of what documents may fill; at 100 the store is full. */
  usedPercent: z.number().min(0),
  /** What documents may fill altogether, and what of it is left. */
  capacityBytes: count,
  freeBytes: count,
  /** To the FLASH, since it was formatted: its wear. */
  bytesWritten: count,
  forecast: forecastSchema,
  batches: count,
  entries: count,
  tornBytes: count,
  mirror: z.enum(['off', 'async', 'sync']),
  /** Null where the mirror is off. */
  mirrorState: z
    .strictObject({
      /** What an `async` mirror does not have yet. */
      behindBytes: count,
      /** Why it gets nothing until the token is opened again; null while all is well. */
      failure: z.string().nullable(),
      /** At the last opening: it was missing or of another store, and was made. */
      remade: z.boolean(),
      /** Headers and frames that one had whole and the other had not, put right at the last opening. */
      healedFlash: count,
      healedMirror: count,
    })
    .nullable(),
});

export const backlogStatusSchema = z.strictObject({
  pending: count,
  oldest: instantText.nullable(),
  amount: sumText,
  link: z.enum(links),
  lastAttempt: instantText.nullable(),
  lastError: z.string().nullable(),
  parked: z.array(z.int().min(1)),
  nextProbe: instantText.nullable(),
});
export type BacklogStatus = z.infer<typeof backlogStatusSchema>;

export const serviceStatusSchema = z.strictObject({
  standing: standingSchema,
  reason: z.string(),
  /** Who must do what, in one sentence; empty when nothing is to be done. */
  action: z.string(),
  token: tokenStatusSchema.nullable(),
  /** While no token is there: what is plugged in that one could be, by name. Null: a token is there, or the system does not tell. */
  usb: z.strictObject({ smartCards: z.array(z.string()), storage: z.array(z.string()) }).nullable(),
  store: storeStatusSchema.nullable(),
  templates: z.array(z.strictObject({ id: z.string(), version: z.int().min(1), currency: z.string() })),
  issuer: z.strictObject({ taxId: z.string(), name: z.string() }).nullable(),
  mode: z.enum(['online', 'hybrid', 'offline']).nullable(),
  budget: budgetSchema.nullable(),
  backlog: backlogStatusSchema.nullable(),
  /** The ticket server has proven that a second copy of this token issues. `batchIndex`: of the batch that it refused of the other one. */
  alarm: z.strictObject({ kind: z.literal('clone'), batchIndex: z.int().min(1), raisedAt: instantText }).nullable(),
  clock: z.strictObject({ now: instantText, trusted: z.boolean(), floor: instantText.nullable() }),
  version: z.string(),
});
export type ServiceStatus = z.infer<typeof serviceStatusSchema>;
