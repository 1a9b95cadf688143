// Owns: private data objects on a token (CKO_DATA, CKA_APPLICATION `ukeyd`), and how one is replaced.
// Value: revision (u64 big-endian) || bytes. Replacing creates the new object and then destroys the old, because SoftHSM2 cannot
// change a value and because between the two steps one must always exist; a crash between them leaves two, and the higher
// revision is the newer. The next write destroys what was left.
// Must not: know what the bytes mean; run without a login (private objects are then invisible, which is not "absent").
import { UkeyError } from '#ipc-schema/errors.ts';
import { reactionOf } from '#token/ckr.ts';
import { CK, type Cryptoki, type Handle } from '#token/cryptoki.ts';

export const application = 'ukeyd';
const revisionBytes = 8;
/** What the smallest known token takes in one object, less the revision. */
export const maxObjectBytes = 16 * 1024 - revisionBytes;
export const objectNamePattern = /^[a-z][a-z0-9-]{0,31}$/u;

interface StoredObject {
  readonly handle: Handle;
  readonly revision: bigint;
  readonly bytes: Buffer;
}

/** Throws invalid-request. The same limits hold for every implementation. */
export function checkObject(name: string, value: Uint8Array = new Uint8Array()): void {
  if (!objectNamePattern.test(name)) throw new UkeyError('invalid-request', `not a name of a data object: ${name}`, { field: 'name' });
  if (value.length > maxObjectBytes)
    throw new UkeyError('invalid-request', `a data object has at most ${maxObjectBytes} bytes`, { field: 'value' });
}

/** null when there is none, or when the module has no data objects. */
export function readDataObject(cryptoki: Cryptoki, session: Handle, name: string): Buffer | null {
  const newest = revisions(cryptoki, session, name)[0];
  return newest === undefined ? null : newest.bytes;
}

/** false when the module has no data objects. After true the value is on the token. */
export function writeDataObject(cryptoki: Cryptoki, session: Handle, name: string, value: Uint8Array): boolean {
  const old = revisions(cryptoki, session, name);
  const head = Buffer.alloc(revisionBytes);
  head.writeBigUInt64BE((old[0]?.revision ?? 0n) + 1n);
  const next = Buffer.concat([head, value]);
  let created: Handle;
  try {
    created = cryptoki.createObject(session, [
      { type: CK.CKA_CLASS, value: CK.CKO_DATA },
      { type: CK.CKA_TOKEN, value: true },
      { type: CK.CKA_PRIVATE, value: true },
      { type: CK.CKA_APPLICATION, value: application },
      { type: CK.CKA_LABEL, value: name },
      { type: CK.CKA_VALUE, value: next },
    ]);
  } catch (error) {
    // With an old object there, the module has data objects and this is a failure.
    if (reactionOf(error) === 'next-method' && old.length === 0) return false;
    throw error;
  }
  if (!cryptoki.attribute(session, created, CK.CKA_VALUE).equals(next)) {
    cryptoki.destroyObject(session, created);
    throw new UkeyError('token-failed', `the token did not keep the data object ${name} as it was given`);
  }
  // The new value is durable now; a crash here leaves the old ones too, and they lose by their revision.
  for (const { handle } of old) cryptoki.destroyObject(session, handle);
  return true;
}

/** Newest first. */
function revisions(cryptoki: Cryptoki, session: Handle, name: string): StoredObject[] {
  let handles: Handle[];
  try {
    handles = cryptoki.find(session, [
      { type: CK.CKA_CLASS, value: CK.CKO_DATA },
      { type: CK.CKA_APPLICATION, value: application },
      { type: CK.CKA_LABEL, value: name },
    ]);
  } catch (error) {
    if (reactionOf(error) === 'next-method') return [];
    throw error;
  }
  const stored: StoredObject[] = [];
  for (const handle of handles) {
    const value = cryptoki.attribute(session, handle, CK.CKA_VALUE);
    // Ours is never shorter than its revision: a shorter one is another program's.
    if (value.length < revisionBytes) continue;
    stored.push({ handle, revision: value.readBigUInt64BE(0), bytes: Buffer.from(value.subarray(revisionBytes)) });
  }
  return stored.sort((a, b) => (a.revision < b.revision ? 1 : a.revision > b.revision ? -1 : 0));
}
