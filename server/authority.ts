// Owns: the authority's and the server's private keys, and everything that is made with them: signed documents, acknowledgements and probe
// answers, certificates, opened uploads.
// Kept in `authority.json` (0600) of the data directory: one file, made once, whole or not at all, so that no part of it can be lost and
// silently made anew: every token in the field knows these keys from its charter. Losing it is losing the tokens; back it up.
// Invariants: private keys never leave this file's closures; the recovery key's private half opens the stores of dead tokens (recovery.ts) and may be
// moved away from the server once it is backed up: all else needs only its public half.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { keyIdOf, makeSign1, publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { base64Text, check, z } from '#ipc-schema/schema.ts';
import { makeAuthorityCertificate, makeTlsCertificate, makeTokenCertificate, type Validity } from './certificate.ts';
import { createOnce, makeDirectory, readIfThere } from './key-file.ts';
import { makeOpener, type Opener, rawPublicKey } from './seal.ts';

const dayMs = 86_400_000;
const authorityValidDays = 20 * 365;
const tokenValidDays = 10 * 365;
/** Certificates begin a little before they are made, for clocks that are behind. */
const backdateMs = dayMs;
const minRsaBits = 2_048;
const maxRsaBits = 4_096;

const fileSchema = z.strictObject({
  format: z.literal('ukey-authority/1'),
  certificate: base64Text,
  authorityKey: base64Text,
  ackKey: base64Text,
  uploadKey: base64Text,
  recoveryPublicKey: base64Text,
  /** Null once the private half has been moved away. */
  recoveryKey: base64Text.nullable(),
});

export interface Authority {
  /** DER. */
  readonly certificate: Uint8Array;
  /** SHA-256 of the certificate, hex. */
  readonly fingerprint: string;
  readonly publicKey: KeyObject;
  readonly ackPublicKey: KeyObject;
  /** Raw HPKE public keys. */
  readonly uploadPublicKey: Uint8Array;
  readonly recoveryPublicKey: Uint8Array;
  /** COSE_Sign1 by the authority over the UTF-8 JSON of a charter or template. */
  signDocument(document: object): Uint8Array;
  /** COSE_Sign1 by the server's acknowledgement key over a payload of upstream.ts. */
  signAnswer(payload: Uint8Array): Uint8Array;
  /**
   * `tokenId`: the ledger (hex) that the key goes on with; left out: its own, which begins with it. `fromMs`: the beginning, of a certificate that
   * renews another one.
   */
  certifyToken(spki: Uint8Array, nowMs: number, tokenId?: string, fromMs?: number): Promise<Uint8Array>;
  certifyTls(spki: Uint8Array, hosts: readonly string[], validity: Validity): Promise<Uint8Array>;
  readonly openUpload: Opener;
  /** Opens recovery slots; null: the key was moved away. */
  readonly openRecovery: Opener | null;
}

/** Reads the keys, or makes them when the directory has none. */
export async function openAuthority(directory: string, nowMs: number): Promise<Authority> {
  makeDirectory(directory);
  const path = join(directory, 'authority.json');
  const bytes = readIfThere(path) ?? createOnce(path, await newKeys(nowMs));
  const file = check(fileSchema, decodeJson(bytes), 'internal');
  const certificate = Buffer.from(file.certificate, 'base64');
  const authorityKey = privateKeyOf(file.authorityKey);
  const publicKey = createPublicKey(authorityKey);
  if (!new X509Certificate(certificate).checkPrivateKey(authorityKey))
    throw new UkeyError('internal', 'authority.json: the certificate is not of its key');
  const ackKey = privateKeyOf(file.ackKey);
  const ackPublicKey = createPublicKey(ackKey);
  const uploadKey = privateKeyOf(file.uploadKey);
  const issuer = { privateKey: authorityKey, certificate };
  const authorityKeyId = keyIdOf(publicKey);
  const ackKeyId = keyIdOf(ackPublicKey);
  const untilMs = new X509Certificate(certificate).validToDate.getTime();
  return {
    certificate,
    fingerprint: createHash('sha256').update(certificate).digest('hex'),
    publicKey,
    ackPublicKey,
    uploadPublicKey: rawPublicKey(createPublicKey(uploadKey)),
    recoveryPublicKey: Buffer.from(file.recoveryPublicKey, 'base64'),
    signDocument: (document) => signWith(authorityKey, authorityKeyId, Buffer.from(JSON.stringify(document), 'utf8')),
    signAnswer: (payload) => signWith(ackKey, ackKeyId, payload),
    certifyToken: async (spki, atMs, tokenId, fromMs) => {
      const validity = { fromMs: fromMs ?? atMs - backdateMs, untilMs: Math.min(untilMs, atMs + tokenValidDays * dayMs) };
      const own = Buffer.from(keyIdOf(acceptableKey(spki))).toString('hex');
      return await makeTokenCertificate(issuer, spki, tokenId ?? own, validity);
    },
    certifyTls: async (spki, hosts, validity) => await makeTlsCertificate(issuer, spki, hosts, validity),
    openUpload: makeOpener(uploadKey),
    openRecovery: file.recoveryKey === null ? null : makeOpener(privateKeyOf(file.recoveryKey)),
  };
}

/**
 * The recovery key from a file of its own: PEM, or the base64 text that stood in authority.json. Throws invalid-request unless it is the one that
 * this authority's stores are sealed to.
 */
export function openRecoveryKey(authority: Authority, content: Uint8Array): Opener {
  const text = Buffer.from(content).toString('utf8').trim();
  const wrong = new UkeyError('invalid-request', "the file does not hold this authority's recovery key");
  let key: KeyObject;
  try {
    key = text.startsWith('-----') ? createPrivateKey(text) : privateKeyOf(text.replace(/^"|"$/g, ''));
  } catch {
    throw wrong; // without a cause: it may carry something of the key
  }
  const isP256 = key.asymmetricKeyDetails?.namedCurve === 'prime256v1';
  if (!isP256 || Buffer.compare(rawPublicKey(createPublicKey(key)), authority.recoveryPublicKey) !== 0) throw wrong;
  return makeOpener(key);
}

/** The public key of a token, if it is of a kind that seals can be signed with. Throws invalid-request. */
export function acceptableKey(spki: Uint8Array): KeyObject {
  const key = publicKeyFromSpki(spki);
  const details = key.asymmetricKeyDetails ?? {};
  const bits = details.modulusLength ?? 0;
  const isP256 = key.asymmetricKeyType === 'ec' && details.namedCurve === 'prime256v1';
  const isRsa = key.asymmetricKeyType === 'rsa' && bits >= minRsaBits && bits <= maxRsaBits && (details.publicExponent ?? 0n) >= 65_537n;
  if (!isP256 && !isRsa) throw new UkeyError('invalid-request', 'the key is neither P-256 nor RSA of 2048 to 4096 bits');
  // One spelling: the key id is a hash of these bytes, so another DER of the same key would be another token.
  if (!key.export({ type: 'spki', format: 'der' }).equals(spki))
    throw new UkeyError('invalid-request', 'the public key is not in its DER spelling');
  return key;
}

async function newKeys(nowMs: number): Promise<Uint8Array> {
  const [authority, ack, upload, recovery] = [newPair(), newPair(), newPair(), newPair()];
  const validity = { fromMs: nowMs - backdateMs, untilMs: nowMs + authorityValidDays * dayMs };
  const certificate = await makeAuthorityCertificate(authority.privateKey, authority.publicKey, validity);
  const file: z.infer<typeof fileSchema> = {
    format: 'ukey-authority/1',
    certificate: Buffer.from(certificate).toString('base64'),
    authorityKey: pkcs8Of(authority.privateKey),
    ackKey: pkcs8Of(ack.privateKey),
    uploadKey: pkcs8Of(upload.privateKey),
    recoveryPublicKey: Buffer.from(rawPublicKey(recovery.publicKey)).toString('base64'),
    recoveryKey: pkcs8Of(recovery.privateKey),
  };
  return Buffer.from(`${JSON.stringify(file, null, 2)}\n`, 'utf8');
}

function signWith(key: KeyObject, keyId: Uint8Array, payload: Uint8Array): Uint8Array {
  return makeSign1('ES256', keyId, payload, (message) => sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' }));
}

export const newPair = () => generateKeyPairSync('ec', { namedCurve: 'P-256' });

function pkcs8Of(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'der' }).toString('base64');
}

function privateKeyOf(pkcs8: string): KeyObject {
  try {
    return createPrivateKey({ key: Buffer.from(pkcs8, 'base64'), format: 'der', type: 'pkcs8' });
  } catch {
    // The cause is left out: an engine's message must not carry anything of a private key.
    throw new UkeyError('internal', 'authority.json: a key cannot be read');
  }
}
