// Owns: the floors: one raw signature of the same module and key, one verification, one write + fdatasync of the same bytes beside the same image.
// Invariants: synchronous calls, each timed alone, nothing around them; the file is preallocated and a sync says that its bytes are on the disk.
// With a mirror the second write runs at the same time in a thread of its own, as the holder's two run in Node's pool.
import { createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { closeSync, fdatasyncSync, openSync, rmSync, writeSync } from 'node:fs';
import process from 'node:process';
import { Worker } from 'node:worker_threads';
import { CK, plain } from '#token/cryptoki.ts';
import { loadModule } from '#token/pkcs11.ts';
import { sha256 } from '#token/public-key.ts';
import { findPrivate, findSealPublic } from '#token/seal-key.ts';
import type { FloorQuestion, Floors } from './floors.ts';

const messageBytes = 200;
const warmUps = 20;
const fileBytes = 16 * 1024 * 1024;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

function timed({ count, pauseMs }: Pick<FloorQuestion, 'count' | 'pauseMs'>, act: (at: number) => void): Float64Array {
  for (let at = 0; at < warmUps; at += 1) act(at);
  return Float64Array.from({ length: count }, (_, at) => {
    if (pauseMs > 0) Atomics.wait(sleeper, 0, 0, pauseMs);
    const startMs = performance.now();
    act(at);
    return (performance.now() - startMs) * 1_000;
  });
}

interface Signer {
  readonly publicKey: KeyObject;
  sign(message: Uint8Array): Uint8Array;
}

/** The seal key of the module's one token, as the holder uses it, but without its checks. */
function cardSigner(module: string, pin: string): Signer {
  const cryptoki = loadModule(module);
  cryptoki.initialize();
  const slot = cryptoki.slots().find((each) => (cryptoki.tokenInfo(each).flags & CK.CKF_TOKEN_INITIALIZED) !== 0);
  if (slot === undefined) throw new Error('the module shows no token');
  const session = cryptoki.openSession(slot);
  cryptoki.login(session, CK.CKU_USER, Buffer.from(pin, 'utf8'));
  const found = findSealPublic(cryptoki, session);
  if (found === null) throw new Error('the token has no seal key');
  const privateKey = findPrivate(cryptoki, session, found.id);
  return { publicKey: found.key, sign: (message) => cryptoki.sign(session, plain(CK.CKM_ECDSA), privateKey, sha256(message)) };
}

/** What the embedded soft token does. */
function softSigner(): Signer {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { publicKey, sign: (message) => sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' }) };
}

/** Writes where it is told, each time that it is woken. */
const twinCode = `
  const { workerData: { file, words, bytes } } = require('node:worker_threads');
  const fs = require('node:fs');
  const fd = fs.openSync(file, 'r+');
  const data = Buffer.alloc(bytes, 0x5a);
  for (;;) {
    Atomics.wait(words, 0, 0);
    const at = Atomics.exchange(words, 0, 0);
    if (at < 0) break;
    fs.writeSync(fd, data, 0, bytes, at - 1);
    fs.fdatasyncSync(fd);
    Atomics.store(words, 1, 1);
    Atomics.notify(words, 1);
  }
`;

function preallocate(file: string): void {
  const fd = openSync(file, 'w');
  const zeros = Buffer.alloc(1024 * 1024);
  for (let at = 0; at < fileBytes; at += zeros.length) writeSync(fd, zeros, 0, zeros.length, at);
  fdatasyncSync(fd);
  closeSync(fd);
}

function syncTimes({ file, bytes, count, pauseMs }: FloorQuestion): { readonly one: Float64Array; readonly two: Float64Array } {
  const twinFile = `${file}.twin`;
  preallocate(file);
  preallocate(twinFile);
  const words = new Int32Array(new SharedArrayBuffer(8));
  const twin = new Worker(twinCode, { eval: true, workerData: { file: twinFile, words, bytes } });
  const data = Buffer.alloc(bytes, 0x5a);
  const places = Math.floor(fileBytes / bytes);
  const fd = openSync(file, 'r+');
  const write = (at: number): void => {
    writeSync(fd, data, 0, bytes, (at % places) * bytes);
    fdatasyncSync(fd);
  };
  const writeBoth = (at: number): void => {
    Atomics.store(words, 1, 0);
    Atomics.store(words, 0, (at % places) * bytes + 1);
    Atomics.notify(words, 0);
    write(at);
    Atomics.wait(words, 1, 0);
  };
  // In turns: what the disk is busy with meanwhile is shared by both.
  const mixed = timed({ count: 2 * count, pauseMs }, (at) => (at % 2 === 0 ? write(at) : writeBoth(at)));
  const one = mixed.filter((_, at) => at % 2 === 0);
  const two = mixed.filter((_, at) => at % 2 === 1);
  Atomics.store(words, 0, -1);
  Atomics.notify(words, 0);
  twin.unref();
  closeSync(fd);
  for (const each of [file, twinFile]) rmSync(each);
  return { one, two };
}

function measure(question: FloorQuestion, signer: Signer): Floors {
  const message = Buffer.alloc(messageBytes, 7);
  const signature = signer.sign(message);
  const key = { key: createPublicKey(signer.publicKey.export({ type: 'spki', format: 'pem' })), dsaEncoding: 'ieee-p1363' as const };
  const { one, two } = syncTimes(question);
  return {
    signUs: timed(question, () => signer.sign(message)),
    verifyUs: timed(question, () => {
      if (!verify('sha256', message, key, signature)) throw new Error('a floor that verifies nothing');
    }),
    syncUs: one,
    twoSyncsUs: two,
  };
}

let signer: Signer | null = null;
process.on('disconnect', () => process.exit(0));
process.on('message', (question: FloorQuestion) => {
  signer ??= question.module === null ? softSigner() : cardSigner(question.module, question.pin);
  process.send?.(measure(question, signer));
});
