// Owns: a ledger for tests: a real Custody with its index on disk over a FakeHolder, an authority that signs charters, templates and
// acknowledgements, a clock that the test moves, and drafts of documents.
import { createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { silentLog } from '#ground/log.ts';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { keyIdOf, makeSign1 } from '#ipc-schema/cose.ts';
import { decodeLeaf, type Leaf } from '#ipc-schema/entry.ts';
import { money, zero } from '#ipc-schema/money.ts';
import type { Link } from '#ipc-schema/status.ts';
import { type Acknowledgement, acknowledgementPayload, alarmPayload, nonceBytes } from '#ipc-schema/upstream.ts';
import { Custody, type CustodyParts } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { keyHashOf } from '#ledger/lookup.ts';
import type { DocumentDraft } from '#ledger/numbering.ts';
import { makeAuthorityCertificate, makeTokenCertificate } from '#server/certificate.ts';
import { BuiltToken, builtTaxId } from '#test/support/batch-builder.ts';
import { FakeHolder } from '#test/support/fake-holder.ts';
import { StepClock } from '#test/support/step-clock.ts';

const validity = { fromMs: Date.parse('2020-01-01T00:00:00Z'), untilMs: Date.parse('2040-01-01T00:00:00Z') };
export const noLimits: Charter['limits'] = { hours: null, count: null, amount: null, single: null };

export interface LedgerRigOptions {
  readonly charter?: Partial<Charter>;
  readonly parts?: Partial<CustodyParts>;
}

export class LedgerRig {
  readonly directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-ledger-'));
  readonly clock = new StepClock();
  readonly token: BuiltToken;
  readonly holder: FakeHolder;
  readonly charter: Charter;
  readonly #authority: KeyObject;
  readonly ackKeys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  readonly #options: LedgerRigOptions;
  link: Link = 'unknown';
  changes = 0;
  custody: Custody;

  private constructor(token: BuiltToken, holder: FakeHolder, authority: KeyObject, options: LedgerRigOptions) {
    this.token = token;
    this.holder = holder;
    this.#authority = authority;
    this.#options = options;
    this.charter = charterFor(token.tokenId, this.ackKeys.publicKey, options.charter ?? {});
    this.custody = this.#custody();
  }

  static async open(options: LedgerRigOptions = {}): Promise<LedgerRig> {
    const token = new BuiltToken();
    const authority = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const authorityCertificate = await makeAuthorityCertificate(authority.privateKey, authority.publicKey, validity);
    const issuer = { privateKey: authority.privateKey, certificate: authorityCertificate };
    const certificate = await makeTokenCertificate(issuer, token.spki, token.tokenId, validity);
    const rig = new LedgerRig(token, new FakeHolder(token, { certificate, authorityCertificate }), authority.privateKey, options);
    rig.holder.reopen();
    await rig.custody.use();
    return rig;
  }

  get ledger(): Ledger {
    const { ledger } = this.custody;
    if (ledger === null) throw new Error('no ledger is open');
    return ledger;
  }

  /** A service that starts anew: same token, same folder. */
  async restart(): Promise<Ledger> {
    await this.custody.close();
    this.custody = this.#custody();
    this.holder.automatic = true;
    this.holder.reopen();
    return await this.custody.use();
  }

  /** Lets everything happen that waits neither for the test nor for a timer: questions to the index, the pool's turn, promises. */
  async settle(rounds = 4): Promise<void> {
    for (let round = 0; round < rounds; round += 1) {
      // The index answers one question after the other.
      await this.custody.ledger?.find({ sequence: Number.MAX_SAFE_INTEGER }).catch(() => undefined);
      for (let turn = 0; turn < 4; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async close(): Promise<void> {
    for (const commit of this.holder.commits) commit.fail(false); // what the test has left open
    await this.custody.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  get indexFile(): string {
    return path.join(this.directory, `index-${this.token.tokenId}.sqlite`);
  }

  indexFiles(): string[] {
    return readdirSync(this.directory).map((name) => path.join(this.directory, name));
  }

  /** Every leaf that is stored, in order. */
  leaves(): Leaf[] {
    return this.holder.stored.flatMap(({ bytes }) => decodeBatch(bytes).entries.map((entry) => decodeLeaf(entry.leaf)));
  }

  /** What is pending by the log alone. */
  pendingByLog(afterBatch: number): { readonly count: number; readonly amount: string } {
    const leaves = this.holder.stored
      .slice(afterBatch)
      .flatMap(({ bytes }) => decodeBatch(bytes).entries.map((entry) => decodeLeaf(entry.leaf)));
    const fiscal = leaves.filter((leaf) => leaf.number !== null);
    return { count: fiscal.length, amount: fiscal.reduce((sum, leaf) => sum.plus(money(leaf.total ?? '0')), zero).toFixed() };
  }

  /** A server's acknowledgement of everything up to a batch. */
  ack(upToBatch: number, change: Partial<Acknowledgement> = {}, key: KeyObject = this.ackKeys.privateKey): Uint8Array {
    const stored = this.holder.stored[upToBatch - 1];
    const headSealHash = stored === undefined ? new Uint8Array(32) : sealHashOf(decodeBatch(stored.bytes).sealBytes);
    const content = { tokenId: this.token.tokenIdBytes, upToBatch, headSealHash, serverTimeMs: this.clock.wallMs(), parked: [], ...change };
    return sealed(acknowledgementPayload(content), key);
  }

  /** A server's alarm with this seal. */
  alarm(sealBytes: Uint8Array): Uint8Array {
    const { tokenIdBytes: tokenId } = this.token;
    const raisedAtMs = this.clock.wallMs();
    const nonce = new Uint8Array(nonceBytes);
    return sealed(alarmPayload({ nonce, tokenId, serverTimeMs: raisedAtMs, alarm: { sealBytes, raisedAtMs } }), this.ackKeys.privateKey);
  }

  /** A certificate of the token's key that ends ten years after the one that it renews. */
  async renewedCertificate(): Promise<Uint8Array> {
    const issuer = { privateKey: this.#authority, certificate: this.holder.authorityCertificate };
    const untilMs = Date.parse('2050-01-01T00:00:00Z');
    return await makeTokenCertificate(issuer, this.token.spki, this.token.tokenId, { ...validity, untilMs });
  }

  signDocument(content: unknown): Uint8Array {
    return sealed(Buffer.from(JSON.stringify(content)), this.#authority);
  }

  #custody(): Custody {
    const custody: Custody = new Custody({
      holder: this.holder,
      clock: this.clock,
      log: silentLog,
      stateDirectory: this.directory,
      link: () => this.link,
      refusedFor: () => null,
      provenNowMs: () => null,
      onCommitted: () => undefined,
      onChange: () => {
        this.changes += 1;
      },
      onOpened: (ledger) => this.#finish(ledger),
      ...this.#options.parts,
    });
    this.holder.onState = (state) => custody.follow(state);
    mkdirSync(this.directory, { recursive: true });
    return custody;
  }

  /** As provisioning does. */
  async #finish(ledger: Ledger): Promise<void> {
    if (ledger.charter !== null) return;
    const signed = this.signDocument(this.charter);
    await ledger.addOwn({ kind: 'own', entryKind: 'charter', bodyMaxBytes: signed.length, body: () => signed });
    ledger.adopt({ charter: this.charter });
  }
}

function sealed(payload: Uint8Array, key: KeyObject): Uint8Array {
  return makeSign1('ES256', keyIdOf(createPublicKey(key)), payload, (message) =>
    sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' }),
  );
}

export function charterFor(tokenId: string, ackKey: KeyObject, change: Partial<Charter>): Charter {
  return {
    format: 'ukey-charter/1',
    serial: 1,
    tokenId,
    issuer: { taxId: builtTaxId, name: 'Example Gifts Ltd', address: ['1 High Street', 'London'] },
    currency: 'GBP',
    mode: 'hybrid',
    limits: noLimits,
    series: [
      { kind: 'invoice', prefix: 'A-', digits: 8, first: 1, last: 99_999_999 },
      { kind: 'credit-note', prefix: 'C-', digits: 8, first: 1, last: 99_999_999 },
    ],
    server: {
      url: 'https://127.0.0.1:1',
      tlsCertificate: null,
      ackKey: ackKey.export({ type: 'spki', format: 'der' }).toString('base64'),
      sealKey: Buffer.alloc(65, 4).toString('base64'),
      recoveryKey: null,
    },
    verifyUrl: null,
    keepDays: 30,
    validFrom: '2029-01-01T00:00:00Z',
    validUntil: '2033-01-01T00:00:00Z',
    ...change,
  };
}

export interface DraftOptions {
  readonly total?: string;
  readonly terminal?: string;
  readonly digest?: string;
  /** Original's sequence, and its number for the body. */
  readonly corrects?: { readonly sequence: number; readonly number: string };
  readonly fillerBytes?: number;
}

export function documentDraft(key: string, options: DraftOptions = {}): DocumentDraft {
  const { total = '10.00', terminal = 'till-1', digest = 'd', corrects, fillerBytes = 0 } = options;
  const documentKind = corrects === undefined ? 'invoice' : 'credit-note';
  const filler = 'x'.repeat(fillerBytes);
  return {
    kind: 'document',
    documentKind,
    terminal,
    keyHash: keyHashOf(terminal, key),
    digest,
    currency: 'GBP',
    total,
    taxTotal: '0.00',
    corrects: corrects?.sequence ?? null,
    bodyBytes: fillerBytes + 512,
    body: (numbered) =>
      Buffer.from(
        JSON.stringify({
          kind: documentKind,
          ...numbered,
          total,
          ...(corrects === undefined ? {} : { corrects: { number: corrects.number } }),
          request: { terminal, key, digest },
          filler,
        }),
      ),
  };
}
