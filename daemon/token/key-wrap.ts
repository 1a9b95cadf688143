// Owns: the ways in which a token of a module can wrap the 32-byte data key, best first, and the shape of each blob.
// Invariants: a method counts only after what it wrapped was unwrapped again and compared; a wrapping key is generated on the token,
// and found again by the CKA_ID that stands in the blob; a key or object that a blob may depend on is never replaced.
// Blobs (id = 16-byte CKA_ID, box = key-box.ts):
//   aes-kw              id || AES key wrap with padding or without (RFC 5649, RFC 3394), told by the length
//   rsa-oaep            id || hash (1 = SHA-1, 2 = SHA-256; MGF1 of the same) || ciphertext (RFC 8017 §7.1)
//   rsa-pkcs1           id || ciphertext (RFC 8017 §7.2)
//   ecdh-p256-hkdf      id || ephemeral point (65) || box under HKDF(x, salt = ephemeral point)
//   data-object-kek     box under the 32 bytes in the data object `kek`
//   rsa-signature-hkdf  salt (32) || box under HKDF(PKCS#1 v1.5 signature of a fixed text, salt)
// Must not: keep the data key; choose to go on with a method that was not proven.
import { constants, createECDH, publicEncrypt, randomBytes, timingSafeEqual } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import { CK, type Cryptoki, type Handle, type Mechanism, type OaepHash, plain, type Template } from '#token/cryptoki.ts';
import { readDataObject, writeDataObject } from '#token/data-object.ts';
import { boxKeyBytes, deriveBoxKey, mustOpenBox, sealBox } from '#token/key-box.ts';
import { wipe } from '#token/pin.ts';
import { barePoint, digestInfo, p256Params, signatureHolds, wrappedPoint } from '#token/public-key.ts';
import { findPrivate, mustStayInside, privateHead, publicHead, readPublicKey, type SealPublic } from '#token/seal-key.ts';
import type { WrapMethod } from '#token/token.ts';

export type ModuleWrapMethod = Exclude<WrapMethod, 'soft-scrypt'>;

/** Where a method works: one session, logged in, and the seal key pair of this token. */
export interface WrapPlace {
  readonly cryptoki: Cryptoki;
  readonly session: Handle;
  readonly seal: SealPublic;
}

interface WrapRecipe {
  /** Mechanisms that the module must name before it is worth trying. */
  readonly mechanisms: readonly number[];
  wrap(place: WrapPlace, dataKey: Uint8Array): Buffer;
  unwrap(place: WrapPlace, blob: Buffer): Buffer;
}

export const dataKeyBytes = 32;
const idBytes = 16;
const pointBytes = 65;
const saltBytes = 32;
const kekObject = 'kek';
const aesLabel = 'ukeyd-wrap-aes';
const rsaLabel = 'ukeyd-wrap-rsa';
const ecLabel = 'ukeyd-wrap-ec';
export const wrapLabels: readonly string[] = [aesLabel, rsaLabel, ecLabel];

/** Signed only here: Token.sign refuses messages that begin like this, or a caller could have the key made for him. */
export const signedKeyText = Buffer.from('ukeyd/1 rsa-signature-hkdf: this signature is a key, never show it', 'utf8');

export const moduleWrapMethods: readonly ModuleWrapMethod[] = [
  'aes-kw',
  'rsa-oaep',
  'rsa-pkcs1',
  'ecdh-p256-hkdf',
  'data-object-kek',
  'rsa-signature-hkdf',
];

const recipes: Readonly<Record<ModuleWrapMethod, WrapRecipe>> = {
  'aes-kw': { mechanisms: [CK.CKM_AES_KEY_GEN, CK.CKM_AES_KEY_WRAP], wrap: aesWrap, unwrap: aesUnwrap },
  'rsa-oaep': { mechanisms: [CK.CKM_RSA_PKCS_KEY_PAIR_GEN, CK.CKM_RSA_PKCS_OAEP], wrap: oaepWrap, unwrap: oaepUnwrap },
  'rsa-pkcs1': { mechanisms: [CK.CKM_RSA_PKCS_KEY_PAIR_GEN, CK.CKM_RSA_PKCS], wrap: pkcs1Wrap, unwrap: pkcs1Unwrap },
  'ecdh-p256-hkdf': { mechanisms: [CK.CKM_EC_KEY_PAIR_GEN, CK.CKM_ECDH1_DERIVE], wrap: ecdhWrap, unwrap: ecdhUnwrap },
  'data-object-kek': { mechanisms: [], wrap: kekWrap, unwrap: kekUnwrap },
  'rsa-signature-hkdf': { mechanisms: [CK.CKM_RSA_PKCS], wrap: signatureWrap, unwrap: signatureUnwrap },
};

/** Does the module name what the method needs? Not a proof. */
export function mayWrap(method: ModuleWrapMethod, mechanisms: ReadonlySet<number>): boolean {
  return recipes[method].mechanisms.every((mechanism) => mechanisms.has(mechanism));
}

/** Wraps and proves by unwrapping. Throws what the module threw, or token-failed. */
export function wrapProven(method: ModuleWrapMethod, place: WrapPlace, dataKey: Uint8Array): Buffer {
  if (dataKey.length !== dataKeyBytes) throw new UkeyError('internal', `a data key has ${dataKeyBytes} bytes`);
  const blob = recipes[method].wrap(place, dataKey);
  const again = unwrapBlob(method, place, blob);
  try {
    if (!timingSafeEqual(again, dataKey)) throw new UkeyError('token-failed', `${method} gave back another key`);
  } finally {
    wipe(again);
  }
  return blob;
}

/** The caller wipes the result. */
export function unwrapBlob(method: ModuleWrapMethod, place: WrapPlace, blob: Buffer): Buffer {
  const dataKey = recipes[method].unwrap(place, blob);
  if (dataKey.length !== dataKeyBytes) {
    wipe(dataKey);
    throw new UkeyError('token-failed', `${method} gave back a key of another length`);
  }
  return dataKey;
}

// aes-kw: the data key visits the token as a session object, because only a key can be wrapped.

const sessionKey: Template = [
  { type: CK.CKA_CLASS, value: CK.CKO_SECRET_KEY },
  { type: CK.CKA_TOKEN, value: false },
  { type: CK.CKA_PRIVATE, value: true },
  { type: CK.CKA_SENSITIVE, value: false },
  { type: CK.CKA_EXTRACTABLE, value: true },
];

function aesWrap(place: WrapPlace, dataKey: Uint8Array): Buffer {
  const { cryptoki, session } = place;
  const wrapping = findOrMake(place, CK.CKO_SECRET_KEY, aesLabel, (id) => {
    const key = cryptoki.generateKey(session, plain(CK.CKM_AES_KEY_GEN), [
      ...privateHead(id, aesLabel),
      { type: CK.CKA_VALUE_LEN, value: 32 },
      { type: CK.CKA_WRAP, value: true },
      { type: CK.CKA_UNWRAP, value: true },
      { type: CK.CKA_ENCRYPT, value: false },
      { type: CK.CKA_DECRYPT, value: false },
    ]);
    mustStayInside(cryptoki, session, key);
    return key;
  });
  const guest = cryptoki.createObject(session, [
    ...sessionKey,
    { type: CK.CKA_KEY_TYPE, value: CK.CKK_GENERIC_SECRET },
    { type: CK.CKA_VALUE, value: Buffer.from(dataKey) },
  ]);
  try {
    return Buffer.concat([wrapping.id, cryptoki.wrapKey(session, plain(CK.CKM_AES_KEY_WRAP), wrapping.key, guest)]);
  } finally {
    cryptoki.destroyObject(session, guest);
  }
}

function aesUnwrap(place: WrapPlace, blob: Buffer): Buffer {
  const { cryptoki, session } = place;
  const { id, rest } = splitId(blob);
  const wrapping = findById(place, CK.CKO_SECRET_KEY, id);
  const guest = cryptoki.unwrapKey(session, plain(CK.CKM_AES_KEY_WRAP), wrapping, rest, [
    ...sessionKey,
    { type: CK.CKA_KEY_TYPE, value: CK.CKK_GENERIC_SECRET },
  ]);
  return takeValue(cryptoki, session, guest);
}

// rsa-oaep, rsa-pkcs1: encrypted by node:crypto with the public key, decrypted by the token. One key pair, that does not sign.

function rsaPair(place: WrapPlace): { id: Buffer; key: Handle } {
  const { cryptoki, session } = place;
  return findOrMake(place, CK.CKO_PRIVATE_KEY, rsaLabel, (id) => {
    const pair = cryptoki.generateKeyPair(
      session,
      plain(CK.CKM_RSA_PKCS_KEY_PAIR_GEN),
      [
        ...publicHead(id, rsaLabel),
        { type: CK.CKA_MODULUS_BITS, value: 2048 },
        { type: CK.CKA_PUBLIC_EXPONENT, value: Buffer.from([1, 0, 1]) },
      ],
      [...privateHead(id, rsaLabel), { type: CK.CKA_DECRYPT, value: true }, { type: CK.CKA_SIGN, value: false }],
    );
    mustStayInside(cryptoki, session, pair.privateKey);
    return pair.privateKey;
  });
}

const oaepHashes: readonly { readonly number: number; readonly hash: OaepHash }[] = [
  { number: 2, hash: 'sha256' },
  { number: 1, hash: 'sha1' },
];

function oaepWrap(place: WrapPlace, dataKey: Uint8Array): Buffer {
  const { id } = rsaPair(place);
  const key = readPublicKey(place.cryptoki, place.session, findById(place, CK.CKO_PUBLIC_KEY, id));
  const refusals: unknown[] = [];
  for (const { number, hash } of oaepHashes) {
    const ciphertext = publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: hash }, dataKey);
    const blob = Buffer.concat([id, Buffer.from([number]), ciphertext]);
    try {
      // SHA-1 in OAEP hides nothing worse than SHA-256 does, and for some modules it is the only one: SoftHSM2 among them.
      wipe(oaepUnwrap(place, blob));
      return blob;
    } catch (error) {
      refusals.push(error);
    }
  }
  throw new UkeyError('token-failed', 'the token decrypts OAEP with neither hash', { cause: new AggregateError(refusals) });
}

function oaepUnwrap(place: WrapPlace, blob: Buffer): Buffer {
  const { id, rest } = splitId(blob);
  const known = oaepHashes.find(({ number }) => number === rest[0]);
  if (known === undefined) throw new UkeyError('token-failed', 'the wrapped key names an unknown hash');
  return decryptOnce(place, { kind: 'oaep', hash: known.hash }, id, rest.subarray(1));
}

function pkcs1Wrap(place: WrapPlace, dataKey: Uint8Array): Buffer {
  const { id } = rsaPair(place);
  const key = readPublicKey(place.cryptoki, place.session, findById(place, CK.CKO_PUBLIC_KEY, id));
  return Buffer.concat([id, publicEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, dataKey)]);
}

function pkcs1Unwrap(place: WrapPlace, blob: Buffer): Buffer {
  const { id, rest } = splitId(blob);
  return decryptOnce(place, plain(CK.CKM_RSA_PKCS), id, rest);
}

function decryptOnce(place: WrapPlace, mechanism: Mechanism, id: Buffer, ciphertext: Buffer): Buffer {
  return Buffer.from(place.cryptoki.decrypt(place.session, mechanism, findById(place, CK.CKO_PRIVATE_KEY, id), ciphertext));
}

// ecdh-p256-hkdf: an ephemeral key of ours with a key pair of the token that does not sign.

function ecdhWrap(place: WrapPlace, dataKey: Uint8Array): Buffer {
  const { cryptoki, session } = place;
  const { id } = findOrMake(place, CK.CKO_PRIVATE_KEY, ecLabel, (fresh) => {
    const pair = cryptoki.generateKeyPair(
      session,
      plain(CK.CKM_EC_KEY_PAIR_GEN),
      [...publicHead(fresh, ecLabel), { type: CK.CKA_EC_PARAMS, value: p256Params }],
      [...privateHead(fresh, ecLabel), { type: CK.CKA_DERIVE, value: true }, { type: CK.CKA_SIGN, value: false }],
    );
    mustStayInside(cryptoki, session, pair.privateKey);
    return pair.privateKey;
  });
  const publicHandle = findById(place, CK.CKO_PUBLIC_KEY, id);
  const ephemeral = createECDH('prime256v1');
  const point = ephemeral.generateKeys();
  const shared = ephemeral.computeSecret(barePoint(cryptoki.attribute(session, publicHandle, CK.CKA_EC_POINT)));
  const key = deriveBoxKey(shared, point, 'ecdh-p256-hkdf');
  try {
    return Buffer.concat([id, point, sealBox(key, dataKey, 'ecdh-p256-hkdf')]);
  } finally {
    wipe(shared, key);
  }
}

function ecdhUnwrap(place: WrapPlace, blob: Buffer): Buffer {
  const { cryptoki, session } = place;
  const { id, rest } = splitId(blob);
  const point = Buffer.from(rest.subarray(0, pointBytes));
  const shared = takeValue(cryptoki, session, deriveShared(cryptoki, session, findById(place, CK.CKO_PRIVATE_KEY, id), point));
  const key = deriveBoxKey(shared, point, 'ecdh-p256-hkdf');
  try {
    return mustOpenBox(key, rest.subarray(pointBytes), 'ecdh-p256-hkdf');
  } finally {
    wipe(shared, key);
  }
}

/** The standard takes the bare point; some modules take only its DER form. */
function deriveShared(cryptoki: Cryptoki, session: Handle, privateKey: Handle, point: Buffer): Handle {
  const template: Template = [
    ...sessionKey,
    { type: CK.CKA_KEY_TYPE, value: CK.CKK_GENERIC_SECRET },
    { type: CK.CKA_VALUE_LEN, value: 32 },
  ];
  try {
    return cryptoki.deriveKey(session, { kind: 'ecdh', peerPoint: point }, privateKey, template);
  } catch (bare) {
    try {
      return cryptoki.deriveKey(session, { kind: 'ecdh', peerPoint: wrappedPoint(point) }, privateKey, template);
    } catch {
      // The first refusal is the one that the standard's form met.
      throw bare;
    }
  }
}

// data-object-kek: the PIN alone stands before the key, and any program that has it can read it.

function kekWrap({ cryptoki, session }: WrapPlace, dataKey: Uint8Array): Buffer {
  let kek = readDataObject(cryptoki, session, kekObject);
  if (kek === null) {
    const fresh = randomBytes(boxKeyBytes);
    if (!writeDataObject(cryptoki, session, kekObject, fresh)) throw new UkeyError('token-failed', 'the module keeps no data objects');
    kek = fresh;
  }
  try {
    return sealBox(kek, dataKey, 'data-object-kek');
  } finally {
    wipe(kek);
  }
}

function kekUnwrap(place: WrapPlace, blob: Buffer): Buffer {
  const kek = readDataObject(place.cryptoki, place.session, kekObject);
  if (kek === null) throw absent(place, 'key-encryption key');
  try {
    return mustOpenBox(kek, blob, 'data-object-kek');
  } finally {
    wipe(kek);
  }
}

// rsa-signature-hkdf: for RSA tokens that can only sign. PKCS#1 v1.5 signatures are deterministic (RFC 8017 §8.2).

function signatureWrap(place: WrapPlace, dataKey: Uint8Array): Buffer {
  const salt = randomBytes(saltBytes);
  const key = signatureKey(place, salt);
  try {
    return Buffer.concat([salt, sealBox(key, dataKey, 'rsa-signature-hkdf')]);
  } finally {
    wipe(key);
  }
}

function signatureUnwrap(place: WrapPlace, blob: Buffer): Buffer {
  const key = signatureKey(place, blob.subarray(0, saltBytes));
  try {
    return mustOpenBox(key, blob.subarray(saltBytes), 'rsa-signature-hkdf');
  } finally {
    wipe(key);
  }
}

function signatureKey({ cryptoki, session, seal }: WrapPlace, salt: Uint8Array): Buffer {
  if (seal.key.asymmetricKeyType !== 'rsa') throw new UkeyError('token-failed', 'the seal key is not RSA: its signatures differ each time');
  const signature = cryptoki.sign(session, plain(CK.CKM_RSA_PKCS), findPrivate(cryptoki, session, seal.id), digestInfo(signedKeyText));
  try {
    if (!signatureHolds(seal.key, signedKeyText, signature))
      throw new UkeyError('token-failed', 'the signature that is to be a key is wrong');
    return deriveBoxKey(signature, salt, 'rsa-signature-hkdf');
  } finally {
    wipe(signature);
  }
}

// Finding and making wrapping keys.

function findOrMake(place: WrapPlace, objectClass: number, label: string, make: (id: Buffer) => Handle): { id: Buffer; key: Handle } {
  const { cryptoki, session } = place;
  const [key] = cryptoki.find(session, [
    { type: CK.CKA_CLASS, value: objectClass },
    { type: CK.CKA_LABEL, value: label },
  ]);
  if (key !== undefined) return { id: cryptoki.attribute(session, key, CK.CKA_ID), key };
  const id = randomBytes(idBytes);
  return { id, key: make(id) };
}

function findById(place: WrapPlace, objectClass: number, id: Buffer): Handle {
  const [handle] = place.cryptoki.find(place.session, [
    { type: CK.CKA_CLASS, value: objectClass },
    { type: CK.CKA_ID, value: id },
  ]);
  if (handle === undefined) throw absent(place, 'wrapping key');
  return handle;
}

/** A blob of another token, if the seal key is still there; else the token itself went (and this throws so). */
function absent({ cryptoki, session, seal }: WrapPlace, what: string): UkeyError {
  findPrivate(cryptoki, session, seal.id);
  return new UkeyError('token-failed', `the token does not hold the ${what} of this wrapped key`);
}

function splitId(blob: Buffer): { id: Buffer; rest: Buffer } {
  if (blob.length <= idBytes) throw new UkeyError('token-failed', 'the wrapped key is too short');
  return { id: Buffer.from(blob.subarray(0, idBytes)), rest: blob.subarray(idBytes) };
}

/** Reads a session key's value and destroys it, also when reading fails. */
function takeValue(cryptoki: Cryptoki, session: Handle, key: Handle): Buffer {
  try {
    return cryptoki.attribute(session, key, CK.CKA_VALUE);
  } finally {
    cryptoki.destroyObject(session, key);
  }
}
