// Owns: one record of the audit trail: what was done to the service or its token by whom, and how it went. Records stand in admin entries (admin.ts), so
// they are sealed, uploaded and exported like every other entry.
// Invariants: `what` is a method of the API or one of a closed list besides; nothing secret stands in a record. A record that had to wait outside of the ledger
// (the token was locked) says so: until it was committed nothing proves it.
import { isErrorCode } from './errors.ts';
import { instantText, nameText, z } from './schema.ts';

/** Calls that are recorded, answered or refused. `ledger.read`: a run of pages from somewhere on (an export). */
export const auditedMethods = [
  'session.login',
  'session.logout',
  'session.changePin',
  'session.unblock',
  'token.provision',
  'token.handOver',
  'token.takeBack',
  'token.renewCertificate',
  'store.restore',
  'store.mend',
  'store.resume',
  'terminal.enrol',
  'terminal.remove',
  'ledger.read',
] as const;
export type AuditedMethod = (typeof auditedMethods)[number];

/** Besides: the service started, or read its configuration again; the stored PIN was tried. */
export const auditedElse = ['service.start', 'service.reload', 'stored-pin.login'] as const;

/** Who did it where no terminal did: whoever opened the admin socket, and the service itself. */
export const notTerminals = ['admin', 'service'] as const;

/** In one entry. */
export const auditRecordsMax = 32;

const count = z.int().min(1);

export const auditRecordSchema = z.strictObject({
  what: z.enum([...auditedMethods, ...auditedElse]),
  /** By the wall clock of the machine. */
  at: instantText,
  /** A terminal's name, `admin` for whoever opened the admin socket, `service` for the service itself. */
  who: nameText,
  /** `done`, or the code of the refusal. */
  outcome: z.string().refine((text) => text === 'done' || isErrorCode(text)),
  /** The terminal that was enrolled or removed. */
  terminal: nameText.optional(),
  /** SHA-256 (hex) of the configuration: at service.start the one in force, at service.reload the one that was read, of which some keys wait for the next start. */
  digest: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  /** Of ledger.read: the first batch that was read. */
  fromBatch: count.optional(),
  /** The same several times, until `lastAt`. */
  times: z.int().min(2).optional(),
  lastAt: instantText.optional(),
  /** It waited outside of the ledger. */
  kept: z.literal(true).optional(),
});
export type AuditRecord = z.infer<typeof auditRecordSchema>;

/** Entries of one answer of audit.list. */
export const auditPageEntries = 32;

export const auditListParams = z.strictObject({ before: count.optional(), limit: count.max(auditPageEntries).optional() });

export const auditListSchema = z.strictObject({
  entries: z.array(
    z.strictObject({
      sequence: count,
      batch: count,
      /** Both null: released from the token; the ticket server has it. */
      issuedAt: instantText.nullable(),
      /** As it stands in the ledger: UTF-8 JSON (admin.ts). */
      body: z.string().nullable(),
    }),
  ),
  /** For `before`, to go on; null: these were the oldest. */
  nextBefore: count.nullable(),
  /** Records that wait for their entry. */
  waiting: z.int().min(0),
});
