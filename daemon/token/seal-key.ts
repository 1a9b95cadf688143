// Owns: the key pair that seals: how it is generated on a token, found again, and used for one raw signature.
// Invariants: the private key is made on the token, sensitive and not extractable, and that is read back; it signs and does nothing
// else; public and private part are paired by CKA_ID; a pair is accepted only after a signature by it was verified.
// Must not: keep handles (they die with the session), retry, or log in.
import { type KeyObject, randomBytes } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import { CkrError } from '#token/ckr.ts';
import { CK, type Cryptoki, type Handle, plain, type Template } from '#token/cryptoki.ts';
import { algorithmOf, digestInfo, ecPublicKey, p256Params, rsaPublicKey, sha256, signatureHolds } from '#token/public-key.ts';
import { vanished } from '#token/token-session.ts';

export const sealLabel = 'ukeyd-seal';
const idBytes = 16;
const rsaBits = 2048;

export interface SealPublic {
  readonly id: Buffer;
  readonly key: KeyObject;
}

/** null when there is none, or none that can be seen before login. Throws token-failed when there are two. */
export function findSealPublic(cryptoki: Cryptoki, session: Handle): SealPublic | null {
  const found = cryptoki.find(session, [
    { type: CK.CKA_CLASS, value: CK.CKO_PUBLIC_KEY },
    { type: CK.CKA_LABEL, value: sealLabel },
  ]);
  const [handle] = found;
  if (handle === undefined) return null;
  if (found.length > 1) throw new UkeyError('token-failed', `the token holds ${found.length} keys named ${sealLabel}`);
  return { id: cryptoki.attribute(session, handle, CK.CKA_ID), key: readPublicKey(cryptoki, session, handle) };
}

/** Throws what counts as a lost session when it is not there: a token that was pulled looks just like that. */
export function findPrivate(cryptoki: Cryptoki, session: Handle, id: Buffer): Handle {
  const [handle] = cryptoki.find(session, [
    { type: CK.CKA_CLASS, value: CK.CKO_PRIVATE_KEY },
    { type: CK.CKA_ID, value: id },
  ]);
  if (handle === undefined) throw vanished('private key');
  return handle;
}

/** One signature by the token, in COSE form, not yet verified. */
export function rawSignature(cryptoki: Cryptoki, session: Handle, privateKey: Handle, publicKey: KeyObject, message: Uint8Array): Buffer {
  return algorithmOf(publicKey) === 'ES256'
    ? cryptoki.sign(session, plain(CK.CKM_ECDSA), privateKey, sha256(message))
    : cryptoki.sign(session, plain(CK.CKM_RSA_PKCS), privateKey, digestInfo(message));
}

/** Generates the best pair that the token can make and prove: EC P-256, else RSA-2048. Throws token-failed. */
export function generateSealPair(cryptoki: Cryptoki, session: Handle, mechanisms: ReadonlySet<number>): SealPublic {
  const refusals: unknown[] = [];
  for (const recipe of [ecRecipe, rsaRecipe]) {
    if (!recipe.mechanisms.every((mechanism) => mechanisms.has(mechanism))) continue;
    // A fuller template first; some modules refuse attributes that they know but do not keep.
    for (const withUsage of [true, false]) {
      try {
        return generate(cryptoki, session, recipe, withUsage);
      } catch (error) {
        if (!(error instanceof UkeyError) || (error instanceof CkrError && error.reaction === 'login-again')) throw error;
        refusals.push(error);
      }
    }
  }
  throw new UkeyError('token-failed', 'the token can make no key pair that seals', { cause: new AggregateError(refusals) });
}

interface PairRecipe {
  readonly mechanisms: readonly number[];
  readonly generation: number;
  readonly publicTemplate: Template;
  readonly usage: Template;
}

const ecRecipe: PairRecipe = {
  mechanisms: [CK.CKM_EC_KEY_PAIR_GEN, CK.CKM_ECDSA],
  generation: CK.CKM_EC_KEY_PAIR_GEN,
  publicTemplate: [{ type: CK.CKA_EC_PARAMS, value: p256Params }],
  usage: [{ type: CK.CKA_DERIVE, value: false }],
};

const rsaRecipe: PairRecipe = {
  mechanisms: [CK.CKM_RSA_PKCS_KEY_PAIR_GEN, CK.CKM_RSA_PKCS],
  generation: CK.CKM_RSA_PKCS_KEY_PAIR_GEN,
  publicTemplate: [
    { type: CK.CKA_MODULUS_BITS, value: rsaBits },
    { type: CK.CKA_PUBLIC_EXPONENT, value: Buffer.from([1, 0, 1]) },
  ],
  usage: [
    { type: CK.CKA_DECRYPT, value: false },
    { type: CK.CKA_UNWRAP, value: false },
  ],
};

function generate(cryptoki: Cryptoki, session: Handle, recipe: PairRecipe, withUsage: boolean): SealPublic {
  const id = randomBytes(idBytes);
  const pair = cryptoki.generateKeyPair(
    session,
    plain(recipe.generation),
    [...publicHead(id, sealLabel), { type: CK.CKA_VERIFY, value: true }, ...recipe.publicTemplate],
    [...privateHead(id, sealLabel), { type: CK.CKA_SIGN, value: true }, ...(withUsage ? recipe.usage : [])],
  );
  try {
    mustStayInside(cryptoki, session, pair.privateKey);
    const key = readPublicKey(cryptoki, session, pair.publicKey);
    const message = randomBytes(32);
    if (!signatureHolds(key, message, rawSignature(cryptoki, session, pair.privateKey, key, message))) {
      throw new UkeyError('token-failed', 'the first signature of a new key is wrong');
    }
    return { id, key };
  } catch (error) {
    // Not proven: nothing may be found under this label later. A crash before this leaves the pair, and provision then says "not blank".
    cryptoki.destroyObject(session, pair.privateKey);
    cryptoki.destroyObject(session, pair.publicKey);
    throw error;
  }
}

export function publicHead(id: Buffer, label: string): Template {
  return [
    { type: CK.CKA_TOKEN, value: true },
    { type: CK.CKA_PRIVATE, value: false },
    { type: CK.CKA_LABEL, value: label },
    { type: CK.CKA_ID, value: id },
  ];
}

export function privateHead(id: Buffer, label: string): Template {
  return [
    { type: CK.CKA_TOKEN, value: true },
    { type: CK.CKA_PRIVATE, value: true },
    { type: CK.CKA_SENSITIVE, value: true },
    { type: CK.CKA_EXTRACTABLE, value: false },
    { type: CK.CKA_LABEL, value: label },
    { type: CK.CKA_ID, value: id },
  ];
}

/** Reads back what was asked for: a module may take the template and ignore it. */
export function mustStayInside(cryptoki: Cryptoki, session: Handle, key: Handle): void {
  const sensitive = cryptoki.attribute(session, key, CK.CKA_SENSITIVE);
  const extractable = cryptoki.attribute(session, key, CK.CKA_EXTRACTABLE);
  if (sensitive[0] !== 1 || extractable[0] !== 0) throw new UkeyError('token-failed', 'the token made a key that can leave it');
}

export function readPublicKey(cryptoki: Cryptoki, session: Handle, key: Handle): KeyObject {
  const type = cryptoki.attribute(session, key, CK.CKA_KEY_TYPE)[0];
  if (type === CK.CKK_EC) {
    if (!cryptoki.attribute(session, key, CK.CKA_EC_PARAMS).equals(p256Params))
      throw new UkeyError('token-failed', 'an EC key on another curve than P-256');
    return ecPublicKey(cryptoki.attribute(session, key, CK.CKA_EC_POINT));
  }
  if (type === CK.CKK_RSA) {
    return rsaPublicKey(cryptoki.attribute(session, key, CK.CKA_MODULUS), cryptoki.attribute(session, key, CK.CKA_PUBLIC_EXPONENT));
  }
  throw new UkeyError('token-failed', 'a key that is neither EC nor RSA');
}
