// Owns: the evidence file: one document with all that a stranger needs to verify it, as JSON:
// {"format": "ukey-evidence/1", "document", "evidence", "certificate", "authorityCertificate"}; document is the body as text (exact bytes),
// the rest base64: evidence.ts bytes and two X.509 certificates in DER.
// Invariant: the authority certificate inside is a convenience: who verifies compares it with the published one.
import { decodeJson } from './json.ts';
import { base64Text, check, z } from './schema.ts';

export const evidenceFileFormat = 'ukey-evidence/1';
/** A body may be half a MiB, and grows when it is written as JSON text. */
export const evidenceFileMaxBytes = 4 * 1024 * 1024;
const documentMaxChars = 1024 * 1024;
const certificateMaxChars = 16 * 1024;

export const evidenceFileSchema = z.strictObject({
  format: z.literal(evidenceFileFormat),
  document: z.string().max(documentMaxChars),
  evidence: base64Text,
  certificate: base64Text.max(certificateMaxChars),
  authorityCertificate: base64Text.max(certificateMaxChars),
});
export type EvidenceFile = z.infer<typeof evidenceFileSchema>;

/** Throws invalid-request (or too-large) unless the bytes are one evidence file. Verifies nothing. */
export function decodeEvidenceFile(bytes: Uint8Array): EvidenceFile {
  return check(evidenceFileSchema, decodeJson(bytes, { maxBytes: evidenceFileMaxBytes, maxDepth: 4 }));
}

export function encodeEvidenceFile(parts: Omit<EvidenceFile, 'format'>): string {
  const { document, evidence, certificate, authorityCertificate } = parts;
  return `${JSON.stringify({ format: evidenceFileFormat, document, evidence, certificate, authorityCertificate }, null, 2)}\n`;
}
