// Owns: the identity blob that the store keeps sealed beside its superblock: CBOR [1, certificate, authorityCertificate] (DER both).
// Invariants: a blob is made only of certificates that fit: the enrolment certificate is of this token's key and signed by the authority,
// because its hash starts the chain of seals and cannot be changed afterwards.
import { X509Certificate } from 'node:crypto';
import { decodeCbor, encodeCbor, FieldReader } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

export interface Identity {
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array;
}

export function encodeIdentity(identity: Identity): Uint8Array {
  return encodeCbor([1, identity.certificate, identity.authorityCertificate]);
}

/** Throws `halted`: the store vouches for these bytes, so others than ours mean damage or a newer service. */
export function decodeIdentity(bytes: Uint8Array): Identity {
  try {
    const fields = new FieldReader('identity', decodeCbor(bytes, 'identity'));
    fields.version(1);
    const identity = { certificate: fields.bytes('certificate'), authorityCertificate: fields.bytes('authorityCertificate') };
    fields.end();
    return identity;
  } catch (cause) {
    throw new UkeyError('halted', 'the identity in the store cannot be read', { cause });
  }
}

/** Throws invalid-request with the field unless the certificates fit this token's public key (SPKI, DER). */
export function checkIdentity(identity: Identity, spki: Uint8Array): void {
  const certificate = readCertificate(identity.certificate, 'certificate');
  const authority = readCertificate(identity.authorityCertificate, 'authorityCertificate');
  if (!certificate.publicKey.export({ type: 'spki', format: 'der' }).equals(spki)) {
    throw new UkeyError('invalid-request', 'the enrolment certificate is of another key than this token has', { field: 'certificate' });
  }
  if (!certificate.verify(authority.publicKey)) {
    throw new UkeyError('invalid-request', 'the enrolment certificate is not signed by the authority', { field: 'certificate' });
  }
}

function readCertificate(der: Uint8Array, field: string): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw new UkeyError('invalid-request', `${field} is not an X.509 certificate`, { field, cause });
  }
}
