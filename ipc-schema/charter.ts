// Owns: the charter: the document, signed by the authority, that says who the issuer is, the mode, the limits, number series, server and validity.
// Form: COSE_Sign1 (cose.ts) by the authority's key; payload = the UTF-8 JSON below, kept as exact bytes.
// Invariants: a charter names one token; a later charter has a higher serial; limits are decimal strings or null for "none".
import type { KeyObject } from 'node:crypto';
import { openSign1 } from './cose.ts';
import { UkeyError } from './errors.ts';
import { decodeJson } from './json.ts';
import { base64Text, check, instantText, nameText, positiveDecimalText, text, z } from './schema.ts';

export const modes = ['online', 'hybrid', 'offline'] as const;
export type Mode = (typeof modes)[number];

const limits = z.strictObject({
  /** Hours since the oldest unacknowledged invoice. */
  hours: z.number().positive().max(87_600).nullable(),
  /** Unacknowledged invoices and credit notes. */
  count: z.int().positive().nullable(),
  /** Sum of their totals, without sign, in the issuer's currency. */
  amount: positiveDecimalText.nullable(),
  /** Largest total of one document. */
  single: positiveDecimalText.nullable(),
});

const series = z.strictObject({
  kind: z.enum(['invoice', 'credit-note']),
  prefix: z.string().regex(/^[A-Z0-9][A-Z0-9/-]{0,15}$/),
  /** Digits that the counter is padded to. */
  digits: z.int().min(1).max(12),
  first: z.int().min(1),
  last: z.int().min(1).max(999_999_999_999),
});

const serverPart = z.strictObject({
  url: z.url({ protocol: /^https$/ }),
  /** Certificate (DER, base64) that the server's TLS must chain to; null: the system's roots. */
  tlsCertificate: base64Text.nullable(),
  /** Public key (SPKI, base64) of probe answers and acknowledgements. */
  ackKey: base64Text,
  /** HPKE public key (raw, base64) that upload bodies are sealed to. */
  sealKey: base64Text,
  /** HPKE public key (raw, base64) that the data key is sealed to for recovery; null: no recovery slot. */
  recoveryKey: base64Text.nullable(),
});

export const charterSchema = z.strictObject({
  format: z.literal('ukey-charter/1'),
  serial: z.int().min(1),
  tokenId: z.string().regex(/^[0-9a-f]{32}$/),
  issuer: z.strictObject({ taxId: nameText, name: text(1, 200), address: z.array(text(1, 200)).max(6) }),
  currency: z.string().regex(/^[A-Z]{3}$/),
  mode: z.enum(modes),
  limits,
  series: z.array(series).min(1).max(16),
  server: serverPart,
  /** Where a customer's phone opens the evidence; the QR code begins with it, then `#`, which therefore it may not hold. */
  verifyUrl: z
    .url({ protocol: /^https?$/ })
    .max(200)
    .regex(/^[^#]*$/, 'must not hold a fragment')
    .nullable(),
  /** Acknowledged entries stay on the FLASH at least this long. */
  keepDays: z.int().min(0).max(36_500),
  /** The token is locked when no till has asked and nothing was committed for so long; left out: never. */
  lockAfterIdleMinutes: z
    .int()
    .min(1)
    .max(7 * 24 * 60)
    .optional(),
  validFrom: instantText,
  validUntil: instantText,
});

export type Charter = z.infer<typeof charterSchema>;
export type ChartedSeries = Charter['series'][number];
export type CharterLimits = Charter['limits'];

/** Verifies the authority's signature and the form. Throws invalid-request naming the charter. */
export function openCharter(signed: Uint8Array, authorityKey: KeyObject): Charter {
  const charter = check(charterSchema, decodeJson(openSign1(signed, authorityKey, 'charter').payload));
  for (const part of charter.series) {
    if (part.last < part.first) throw new UkeyError('invalid-request', 'charter: a series ends before it begins', { field: 'series' });
    if (String(part.last).length > part.digits)
      throw new UkeyError('invalid-request', 'charter: a series outgrows its digits', { field: 'series' });
  }
  for (const [at, part] of charter.series.entries()) {
    if (charter.series.slice(0, at).some((other) => shareNumbers(other, part)))
      throw new UkeyError('invalid-request', 'charter: two series would print the same number', { field: 'series' });
  }
  if (Date.parse(charter.validUntil) <= Date.parse(charter.validFrom)) {
    throw new UkeyError('invalid-request', 'charter: ends before it begins', { field: 'validUntil' });
  }
  return charter;
}

/** True when some number of one series reads like one of the other: prefix `A` with 3 digits, `A1` with 2. */
export function shareNumbers(a: ChartedSeries, b: ChartedSeries): boolean {
  if (a.prefix.length > b.prefix.length) return shareNumbers(b, a);
  const between = b.prefix.slice(a.prefix.length);
  if (!b.prefix.startsWith(a.prefix) || !/^\d*$/.test(between) || a.prefix.length + a.digits !== b.prefix.length + b.digits) return false;
  const shift = Number(between) * 10 ** b.digits;
  return a.first <= shift + b.last && shift + b.first <= a.last;
}

/** The printed number: prefix and zero-padded counter. */
export function numberText(part: ChartedSeries, counter: number): string {
  return part.prefix + String(counter).padStart(part.digits, '0');
}
