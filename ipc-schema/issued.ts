// Owns: what a caller is answered of an issued document, and of one that it only previewed.
// Invariants: `document` and `evidence` are the exact bytes that are kept; amounts are decimal strings. Pure.
import { base64Text, decimalText, instantText, z } from './schema.ts';
import { budgetSchema } from './status.ts';

export const deliveries = ['pending', 'acknowledged'] as const;

export const issuedSchema = z.strictObject({
  number: z.string(),
  sequence: z.int().min(1),
  issuedAt: instantText,
  currency: z.string(),
  total: decimalText,
  taxTotal: decimalText,
  /** The body, exact bytes as a string; left out when brief. */
  document: z.string().optional(),
  evidence: base64Text.optional(),
  qr: z.string().optional(),
  delivery: z.enum(deliveries),
  /** true: an earlier request with this key issued it. */
  repeated: z.boolean(),
  budget: budgetSchema,
});
export type Issued = z.infer<typeof issuedSchema>;

export const previewSchema = z.strictObject({
  currency: z.string(),
  total: decimalText,
  taxTotal: decimalText,
  document: z.string(),
  budget: budgetSchema,
});
