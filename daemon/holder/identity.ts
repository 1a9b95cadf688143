// Owns: the identity blob that the store keeps sealed beside its superblock: CBOR [2, authorityCertificate, certificate, [succession, ...]]:
// certificates in DER, that of the ledger's first key; then the signed successions (ipc-schema/succession.ts), oldest first.
// [1, certificate, authorityCertificate] is read too: a ledger that only its first key has sealed.
// Invariants: a blob is made only of parts that fit: the enrolment certificate is of this token's key and signed by the authority,
// because its hash starts the chain of seals and cannot be changed afterwards; each succession is the authority's.
import { X509Certificate } from 'node:crypto';
import { decodeCbor, encodeCbor, FieldReader, malformed } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { firstSigner, newestSigner, nobodySucceeds, type Signers, type Succeed } from '#ipc-schema/signers.ts';

/** The certificates of a ledger's first key and of the authority. */
export interface Certificates {
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array;
}

export interface Identity extends Certificates {
  readonly successions: readonly Uint8Array[];
}

export function encodeIdentity(identity: Identity): Uint8Array {
  return encodeCbor([2, identity.authorityCertificate, identity.certificate, [...identity.successions]]);
}

/** Throws `halted`: the store vouches for these bytes, so others than ours mean damage or a newer service. */
export function decodeIdentity(bytes: Uint8Array): Identity {
  try {
    const value = decodeCbor(bytes, 'identity');
    return Array.isArray(value) && value[0] === 1 ? firstVersion(value) : secondVersion(value);
  } catch (cause) {
    throw new UkeyError('halted', 'the identity in the store cannot be read', { cause });
  }
}

function firstVersion(value: unknown): Identity {
  const fields = new FieldReader('identity', value);
  fields.version(1);
  const certificate = fields.bytes('certificate');
  const authorityCertificate = fields.bytes('authorityCertificate');
  fields.end();
  return { certificate, authorityCertificate, successions: [] };
}

function secondVersion(value: unknown): Identity {
  const fields = new FieldReader('identity', value);
  fields.version(2);
  const authorityCertificate = fields.bytes('authorityCertificate');
  const certificate = fields.bytes('certificate');
  const successions = fields.list('successions').map((signed) => {
    if (!(signed instanceof Uint8Array)) throw malformed('identity', 'has a succession that is not a byte string');
    return signed;
  });
  fields.end();
  return { authorityCertificate, certificate, successions };
}

export interface LedgerKeys {
  readonly signers: Signers;
  /** For a walk along the ledger. */
  readonly succeed: Succeed;
}

/** The keys of the ledger. Throws `halted` when the parts do not fit together. */
export async function keysIn(identity: Identity): Promise<LedgerKeys> {
  try {
    // The schemas of a succession are loaded only where there is one.
    if (identity.successions.length === 0) return { signers: firstSigner(identity.certificate), succeed: nobodySucceeds };
    const { signersOf, succeedBy } = await import('#ipc-schema/succession.ts');
    const { publicKey } = readCertificate(identity.authorityCertificate, 'authorityCertificate');
    return { signers: signersOf(identity.certificate, identity.successions, publicKey), succeed: succeedBy(publicKey) };
  } catch (cause) {
    throw new UkeyError('halted', 'the identity in the store does not hold', { cause });
  }
}

/** The identity of a ledger with these keys. */
export function identityWith(authorityCertificate: Uint8Array, { list }: Signers): Identity {
  const successions = list.flatMap(({ succession }) => (succession === null ? [] : [succession.signed]));
  return { authorityCertificate, certificate: list[0].certificate, successions };
}

/** Throws invalid-request with the field unless the certificates fit this token's public key (SPKI, DER). */
export function checkIdentity(identity: Certificates, spki: Uint8Array): void {
  const certificate = readCertificate(identity.certificate, 'certificate');
  const authority = readCertificate(identity.authorityCertificate, 'authorityCertificate');
  if (!certificate.publicKey.export({ type: 'spki', format: 'der' }).equals(spki)) {
    throw new UkeyError('invalid-request', 'the enrolment certificate is of another key than this token has', { field: 'certificate' });
  }
  if (!certificate.verify(authority.publicKey)) {
    throw new UkeyError('invalid-request', 'the enrolment certificate is not signed by the authority', { field: 'certificate' });
  }
}

/** Throws `halted` unless this key (SPKI, DER) is the one that goes on with the ledger. */
export function checkTurn(signers: Signers, spki: Uint8Array): void {
  if (newestSigner(signers).key.export({ type: 'spki', format: 'der' }).equals(spki)) return;
  throw new UkeyError('halted', 'another key goes on with the ledger in this store than this token has');
}

function readCertificate(der: Uint8Array, field: string): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw new UkeyError('invalid-request', `${field} is not an X.509 certificate`, { field, cause });
  }
}
