// Owns: the server's only door to the X.509 package: the three kinds of certificate that an authority makes (RFC 5280), all signed with ES256.
// Invariants: serials are 16 random octets, positive (§4.1.2.2); the authority may sign leaves only (pathLen 0); a token's certificate can
// never serve TLS (its extended key usage is clientAuth, its name no host); names hold only characters that need no escaping.
// Must not: keep a key.
import './reflect-metadata.ts';
import { type KeyObject, randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PublicKey,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

export interface Validity {
  readonly fromMs: number;
  readonly untilMs: number;
}

/** Private key and certificate (DER) of the authority that signs. */
export interface Issuer {
  readonly privateKey: KeyObject;
  readonly certificate: Uint8Array;
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

function serialNumber(): string {
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40; // positive, and never shorter than it says
  return serial.toString('hex');
}

const instants = (validity: Validity) => ({ notBefore: new Date(validity.fromMs), notAfter: new Date(validity.untilMs) });

/** Self-signed certificate of a new authority, DER. */
export async function makeAuthorityCertificate(privateKey: KeyObject, publicKey: KeyObject, validity: Validity): Promise<Uint8Array> {
  const keys = {
    privateKey: privateKey.toCryptoKey(algorithm, false, ['sign']),
    publicKey: publicKey.toCryptoKey(algorithm, true, ['verify']),
  };
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: 'CN=ukey authority',
    ...instants(validity),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.digitalSignature, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return new Uint8Array(certificate.rawData);
}

/** Enrolment certificate of a token's key. `tokenId` is hex. */
export async function makeTokenCertificate(issuer: Issuer, spki: Uint8Array, tokenId: string, validity: Validity): Promise<Uint8Array> {
  return await signLeaf(issuer, spki, `CN=ukey token ${tokenId}`, validity, [
    new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth], false),
  ]);
}

/** Certificate of the server's TLS key. `hosts` are DNS names or IP addresses, checked by the caller. */
export async function makeTlsCertificate(
  issuer: Issuer,
  spki: Uint8Array,
  hosts: readonly string[],
  validity: Validity,
): Promise<Uint8Array> {
  const names = hosts.map((host) => (isIP(host) === 0 ? { type: 'dns' as const, value: host } : { type: 'ip' as const, value: host }));
  return await signLeaf(issuer, spki, 'CN=ukey ticket server', validity, [
    new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth], false),
    new SubjectAlternativeNameExtension(names, false),
  ]);
}

async function signLeaf(
  issuer: Issuer,
  spki: Uint8Array,
  subject: string,
  validity: Validity,
  extensions: readonly Extension[],
): Promise<Uint8Array> {
  const authority = new X509Certificate(Buffer.from(issuer.certificate));
  const publicKey = new PublicKey(Buffer.from(spki));
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject,
    issuer: authority.subject,
    ...instants(validity),
    publicKey,
    signingKey: issuer.privateKey.toCryptoKey(algorithm, false, ['sign']),
    signingAlgorithm: algorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      await AuthorityKeyIdentifierExtension.create(authority.publicKey),
      await SubjectKeyIdentifierExtension.create(publicKey),
      ...extensions,
    ],
  });
  return new Uint8Array(certificate.rawData);
}
