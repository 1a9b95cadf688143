// Owns: whether a token's certificate is signed by the authority that the reader trusts (RFC 5280: names and signature).
// Invariants: a trusted certificate or fingerprint that was given is always compared; where none was given the answer says so, because
// a file can bring any authority along. Validity dates are told, not judged: a seal outlives its certificate.
import { hash, type KeyObject, X509Certificate } from 'node:crypto';
import { endAs, endingOf, usage } from '#ctl/exit-codes.ts';
import { readInput } from '#ctl/input.ts';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { ledgerIdIn } from '#ipc-schema/signers.ts';

/** What the reader trusts beforehand. */
export type Trust =
  | { readonly kind: 'certificate'; readonly certificate: X509Certificate }
  | { readonly kind: 'fingerprint'; readonly fingerprint: string }
  | { readonly kind: 'none' };

export interface CheckedToken {
  readonly tokenKey: KeyObject;
  /** Of the ledger that the certificate names, hex: the id of its first key. */
  readonly tokenId: string;
  readonly certificate: X509Certificate;
  /** null: there was no authority certificate to check against. */
  readonly authority: X509Certificate | null;
  /** The reader named the authority; else it is whatever came along. */
  readonly trusted: boolean;
}

const certificateMaxBytes = 64 * 1024;

/** `--authority`'s value: a SHA-256 fingerprint (hex, colons allowed) or a file with a certificate. Throws usage. */
export async function readTrust(value: string | undefined): Promise<Trust> {
  if (value === undefined) return { kind: 'none' };
  const hex = value.replaceAll(':', '').toLowerCase();
  if (/^[0-9a-f]{64}$/.test(hex)) return { kind: 'fingerprint', fingerprint: hex };
  return { kind: 'certificate', certificate: await readCertificate(value, '--authority') };
}

/** A PEM or DER file. Throws usage. */
export async function readCertificate(file: string, option: string): Promise<X509Certificate> {
  const bytes = await readInput(file, option, certificateMaxBytes);
  try {
    return new X509Certificate(bytes);
  } catch (cause) {
    throw usage(`${file} is neither a certificate (PEM or DER) nor a fingerprint of 64 hex digits`, { field: option, cause });
  }
}

/** SHA-256 over the certificate's DER, hex. */
export function fingerprintOf(certificate: X509Certificate): string {
  return hash('sha256', certificate.raw, 'hex');
}

/** Throws invalid-request naming what does not hold. `authorityDer`: what came along with the token's certificate. */
export function checkToken(certificateDer: Uint8Array, authorityDer: Uint8Array | null, trust: Trust): CheckedToken {
  const certificate = parse(certificateDer, 'the token certificate');
  const authority = authorityOf(authorityDer, trust);
  if (authority !== null && !(certificate.checkIssued(authority) && certificate.verify(authority.publicKey)))
    throw new UkeyError('invalid-request', 'the token certificate is not signed by the authority', { action: distrust });
  const tokenKey = certificate.publicKey;
  const tokenId = Buffer.from(ledgerIdIn(certificate) ?? keyIdOf(tokenKey)).toString('hex');
  return { tokenKey, tokenId, certificate, authority, trusted: trust.kind !== 'none' };
}

/** Sealed outside of the certificate's validity, or null. */
export function validityWarning(certificate: X509Certificate, sealedAtMs: number): string | null {
  if (sealedAtMs >= Date.parse(certificate.validFrom) && sealedAtMs <= Date.parse(certificate.validTo)) return null;
  return `sealed outside of the certificate's validity (${certificate.validFrom} to ${certificate.validTo})`;
}

export const distrust =
  'It was changed, or is of another token or authority: do not rely on it, and ask whoever gave it to you for the original.';

/** What is verified and is not as it should be is nobody's request: it does not hold. A step inside that said how it ended keeps its word. */
export function doubt(thrown: unknown): UkeyError {
  const { error, exit } = endingOf(thrown);
  if (exit !== 'internal') return error;
  return endAs(
    'unverified',
    new UkeyError(error.code, `does not hold: ${error.message}`, { field: error.field, action: distrust, cause: error }),
  );
}

/** Runs a step of verifying whose failures mean that something does not hold. */
export async function holding<T>(step: () => T | Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (thrown) {
    throw doubt(thrown);
  }
}

function authorityOf(der: Uint8Array | null, trust: Trust): X509Certificate | null {
  const brought = der === null ? null : parse(der, 'the authority certificate');
  switch (trust.kind) {
    case 'none':
      return brought;
    case 'certificate':
      return trust.certificate;
    case 'fingerprint':
      if (brought === null)
        throw usage('a fingerprint alone cannot be checked here: name the authority certificate itself', { field: '--authority' });
      if (fingerprintOf(brought) !== trust.fingerprint)
        throw new UkeyError('invalid-request', 'the authority certificate is another than the one that is trusted', { action: distrust });
      return brought;
  }
}

function parse(der: Uint8Array, what: string): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw new UkeyError('invalid-request', `${what} is not an X.509 certificate`, { action: distrust, cause });
  }
}
