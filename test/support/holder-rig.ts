// Owns: what a test of a Holder needs around it: an authority that certifies, drafts of batches that verify, waiting for a state.
// Invariants: certificates are made by the server's own code; drafts are built by the writer's parts of ipc-schema and checked by its verifier.
import { generateKeyPairSync } from 'node:crypto';
import type { BatchDraft, Holder, HolderState, Mount } from '#holder/holder.ts';
import { joinEntries } from '#ipc-schema/batch.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { bodyHashOf, encodeEntry, encodeLeaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { buildTree, leafHash, rootOf } from '#ipc-schema/merkle.ts';
import { openEnrolment } from '#ipc-schema/upstream.ts';
import { chainStart, verifyBatch } from '#ipc-schema/verify.ts';
import { makeAuthorityCertificate, makeTokenCertificate } from '#server/certificate.ts';

export const testPin = '24681357';
export const testSoPin = '97531864';
export const pinBytes = (text: string = testPin): Uint8Array => Buffer.from(text, 'utf8');

const validity = { fromMs: Date.parse('2020-01-01T00:00:00Z'), untilMs: Date.parse('2040-01-01T00:00:00Z') };

export interface Certificates {
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array;
}

export async function certify(spki: Uint8Array): Promise<Certificates> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const authorityCertificate = await makeAuthorityCertificate(privateKey, publicKey, validity);
  const certificate = await makeTokenCertificate({ privateKey, certificate: authorityCertificate }, spki, '00'.repeat(16), validity);
  return { certificate, authorityCertificate };
}

/** Both steps of provisioning, with the test PIN. */
export async function provisionHolder(holder: Holder, recoveryKey: Uint8Array | null = null): Promise<Mount> {
  const request = await enrol(holder);
  return await holder.format({ ...(await certify(openEnrolment(request).spki)), recoveryKey, erase: false });
}

export async function enrol(holder: Holder): Promise<Uint8Array> {
  return await holder.provision({ label: 'test', pin: pinBytes(), soPin: pinBytes(testSoPin), code: 'code-1', repeat: 'any' });
}

/** Makes drafts one behind the other, as the ledger does: it counts on when a draft was sealed. */
export class DraftMaker {
  nextBatch: number;
  nextSequence: number;

  constructor(mount: Pick<Mount, 'nextBatch' | 'nextSequence'>) {
    this.nextBatch = mount.nextBatch;
    this.nextSequence = mount.nextSequence;
  }

  next(bodies: readonly string[]): BatchDraft {
    const draft = this.peek(bodies);
    this.nextBatch += 1;
    this.nextSequence += bodies.length;
    return draft;
  }

  /** Without counting on. */
  peek(bodies: readonly string[]): BatchDraft {
    const entries = bodies.map((text, at) => {
      const body = Buffer.from(text, 'utf8');
      const nothing = { number: null, currency: null, total: null, taxTotal: null };
      const sequence = this.nextSequence + at;
      const leaf = encodeLeaf({
        kind: 'admin',
        sequence,
        issuedAtMs: 1_893_456_000_000,
        issuerTaxId: 'T',
        ...nothing,
        bodyHash: bodyHashOf(body),
      });
      return { leaf, body };
    });
    return {
      batchIndex: this.nextBatch,
      firstSequence: this.nextSequence,
      count: entries.length,
      root: rootOf(buildTree(entries.map(({ leaf }) => leafHash(leaf)))),
      sealedAtMs: 1_893_456_000_000,
      joinedEntries: joinEntries(entries.map(encodeEntry)),
      reserved: false,
      checkpoint: Buffer.from(`state before ${this.nextBatch}`),
    };
  }
}

/** Reads the whole ledger and verifies it with public keys alone. The bodies, in order. */
export async function readVerified(holder: Holder, mount: Mount, maxBytes = 64 * 1024): Promise<string[]> {
  const key = publicKeyFromSpki(mount.publicKey);
  const bodies: string[] = [];
  let head = chainStart(mount.signers[0].certificate);
  for (;;) {
    const batches = await holder.read(head.batchIndex + 1, maxBytes);
    if (batches.length === 0) return bodies;
    for (const { bytes } of batches) {
      const verified = verifyBatch(bytes, key, head);
      head = verified.head;
      bodies.push(...verified.entries.map((entry) => Buffer.from(entry.body).toString('utf8')));
    }
  }
}

/** Remembers states and lets a test wait for one. */
export class StateWatch {
  readonly seen: HolderState[] = [];
  #wake: () => void = () => undefined;

  readonly onState = (state: HolderState): void => {
    this.seen.push(state);
    this.#wake();
  };

  /** Waits until the newest state is of the kind; a state before `from` does not count. */
  async until(kind: HolderState['kind'], from = 0, waitMs = 10_000): Promise<HolderState> {
    const giveUpAtMs = performance.now() + waitMs;
    for (;;) {
      const last = this.seen.length > from ? this.seen.at(-1) : undefined;
      if (last?.kind === kind) return last;
      const leftMs = giveUpAtMs - performance.now();
      if (leftMs <= 0) throw new Error(`no state ${kind} within ${waitMs} ms, but ${this.seen.map((state) => state.kind).join(', ')}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

/** The code that a promise is refused with. */
export async function codeOf(refused: Promise<unknown>): Promise<string> {
  try {
    await refused;
  } catch (thrown) {
    if (thrown instanceof UkeyError) return thrown.code;
    throw thrown;
  }
  return 'not refused';
}

/** The codes of both promises of a commit. */
export async function codesOf(commit: {
  readonly sealed: Promise<unknown>;
  readonly durable: Promise<unknown>;
}): Promise<[string, string]> {
  return await Promise.all([codeOf(commit.sealed), codeOf(commit.durable)]);
}
