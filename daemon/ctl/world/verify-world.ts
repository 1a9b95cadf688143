// Owns: `ukeyctl sandbox verify`: a sandbox's store and its server, read independently of the service and compared batch by batch.
// How: the store is opened with the token, for reading only, and walked from the enrolment certificate on; the server's batches are
// fetched over HTTPS, pinned to the authority, and walked the same way; then bytes, sums and acknowledgement are compared.
// Invariants: the server's head is read before the store is opened, so a service that goes on issuing meanwhile is no difference:
// whatever the server had then must be in the store now.
// Must not: ask the service anything, or write to the token.
import { X509Certificate } from 'node:crypto';
import { request } from 'node:https';
import { checkToken } from '#ctl/certificates.ts';
import { endAs, endingAs } from '#ctl/exit-codes.ts';
import { LedgerCheck, type LedgerReport } from '#ctl/ledger-check.ts';
import { openProgress } from '#ctl/progress.ts';
import { counted, table } from '#ctl/screen.ts';
import type { Holder, Mount } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { check } from '#ipc-schema/schema.ts';
import { decodeUpload, paths, type TokenView, tokenViewSchema, uploadMaxBatches, uploadMaxBytes } from '#ipc-schema/upstream.ts';
import { type Layout, type Memory, readPinFile, storeOf } from './layout.ts';

export interface WorldVerdict {
  readonly holds: boolean;
  /** What is wrong, one sentence each; empty when it holds. */
  readonly differences: readonly string[];
  readonly store: LedgerReport;
  /** Null: the server has nothing of this token yet. */
  readonly server: LedgerReport | null;
  /** Batches that are the same, byte for byte. */
  readonly equalBatches: number;
  /** Batches that the token has released: they were read from the server alone. */
  readonly releasedBatches: number;
}

const readMaxBytes = 4 * 1024 * 1024;
const answerMaxBytes = uploadMaxBytes + 1024 * 1024;
const httpWaitMs = 30_000;
const differencesMax = 20;

export async function verifyWorld(layout: Layout, memory: Memory, serverUrl: string): Promise<WorldVerdict> {
  // The module reads its configuration when it is loaded, which is below.
  if (memory.module !== null) process.env['SOFTHSM2_CONF'] = layout.softhsmConfig;
  let store = await openStore(layout, memory);
  try {
    const server = new ServerReader(serverUrl, store.mount);
    const view = await server.head();
    if (view.upToBatch >= store.mount.nextBatch) {
      // The service went on between the two looks: the store is opened again, now later than the server was asked.
      await store.holder.close();
      store = await openStore(layout, memory);
    }
    return await compare(store, server, view);
  } finally {
    await store.holder.close();
  }
}

interface OpenStore {
  readonly holder: Holder;
  readonly mount: Mount;
}

async function openStore(layout: Layout, memory: Memory): Promise<OpenStore> {
  const holder = joinHolder({
    ...partsOf({
      module: memory.module,
      ...(memory.module === null ? { softTokenPath: layout.softToken } : {}),
      flashPath: storeOf(layout, memory),
      presencePaths: [],
      readOnly: true,
    }),
    events: { onState: () => undefined },
    note: () => undefined,
  });
  const pin = Buffer.from(readPinFile(layout.pinFile), 'utf8');
  try {
    const mount = await holder.login(pin, false);
    await endingAs('unverified', () => checkToken(mount.certificate, mount.authorityCertificate, { kind: 'none' }));
    return { holder, mount };
  } catch (thrown) {
    await holder.close();
    const error = asUkeyError(thrown);
    throw endAs(error.code === 'halted' ? 'unverified' : 'refused', error);
  } finally {
    pin.fill(0);
  }
}

async function compare({ holder, mount }: OpenStore, server: ServerReader, view: TokenView): Promise<WorldVerdict> {
  const { authorityCertificate, signers } = mount;
  const { certificate } = signers[0];
  const differences: string[] = [];
  const stored = new LedgerCheck({ certificate, authorityCertificate });
  const received = new LedgerCheck({ certificate, authorityCertificate });
  const last = mount.nextBatch - 1;
  const common = Math.min(last, view.upToBatch);
  if (view.upToBatch > last) differences.push(`the server has ${view.upToBatch - last} batches that the store lacks`);
  if (view.alarm !== null) differences.push(`the server raised an alarm: ${view.alarm.detail}`);
  let storedAtCommon: LedgerReport | null = null;
  let equalBatches = 0;
  using progress = openProgress('Verifying', last);
  const theirs = server.batches(common);
  // What the store has released is taken from the server: its own batches must follow those, seal by seal.
  for (let released = 1; released < mount.oldestBatch; released += 1) {
    const their = (await theirs.next()).value;
    if (their === undefined) throw endAs('unverified', new UkeyError('internal', `the server has no batch ${released}`));
    hold('the server', () => received.add(their));
    hold('the server', () => stored.add(their));
    if (released === common) storedAtCommon = stored.result();
    progress.show(released);
  }
  for await (const { batchIndex, bytes } of storeBatches(holder, mount.oldestBatch, last)) {
    hold('the store', () => stored.add(bytes));
    if (batchIndex <= common) {
      const their = (await theirs.next()).value;
      if (their === undefined) throw endAs('unverified', new UkeyError('internal', `the server has no batch ${batchIndex}`));
      hold('the server', () => received.add(their));
      if (Buffer.compare(bytes, their) === 0) equalBatches += 1;
      else if (differences.length < differencesMax) differences.push(`batch ${batchIndex} is another one on the server`);
    }
    if (batchIndex === common) storedAtCommon = stored.result();
    progress.show(batchIndex);
  }
  progress.end();
  const store = stored.result();
  const serverReport = common === 0 ? null : received.result();
  differences.push(...differencesOf(store, storedAtCommon, serverReport, view));
  return {
    holds: differences.length === 0,
    differences,
    store,
    server: serverReport,
    equalBatches,
    releasedBatches: mount.oldestBatch - 1,
  };
}

/** What is wrong beyond the bytes. Pure. `storeAtCommon`: the store as far as the server has come. */
export function differencesOf(
  store: LedgerReport,
  storeAtCommon: LedgerReport | null,
  server: LedgerReport | null,
  view: TokenView,
): string[] {
  const found: string[] = [];
  for (const [name, report] of [
    ['store', store],
    ['server', server],
  ] as const) {
    for (const one of report?.findings ?? []) found.push(`${name}, sequence ${one.sequence}: ${one.what}`);
  }
  if (store.acknowledgedBatch > view.upToBatch)
    found.push(`batch ${store.acknowledgedBatch} is acknowledged and the server has only ${view.upToBatch}`);
  if (JSON.stringify(storeAtCommon?.sums ?? []) !== JSON.stringify(server?.sums ?? [])) found.push('the sums differ');
  if (server !== null && documentsOf(server) !== view.invoices)
    found.push(`the server counts ${view.invoices} documents and gives out ${documentsOf(server)}`);
  return found.slice(0, differencesMax);
}

export function documentsOf(report: LedgerReport): number {
  return (report.byKind.invoice ?? 0) + (report.byKind['credit-note'] ?? 0);
}

/** What breaks a chain ends the comparison: nothing behind it can be believed. */
function hold(whose: string, step: () => void): void {
  try {
    step();
  } catch (thrown) {
    const error = asUkeyError(thrown);
    throw endAs('unverified', new UkeyError(error.code, `${whose}: ${error.message}`, { cause: error }));
  }
}

async function* storeBatches(holder: Holder, first: number, last: number): AsyncGenerator<{ batchIndex: number; bytes: Uint8Array }> {
  for (let next = first; next <= last; ) {
    const batches = await holder.read(next, readMaxBytes);
    if (batches.length === 0) throw endAs('unverified', new UkeyError('halted', `batch ${next} cannot be found in the store`));
    for (const batch of batches) {
      if (batch.batchIndex > last) return;
      yield batch;
      next = batch.batchIndex + 1;
    }
  }
}

interface Missing {
  readonly what: string;
  readonly action: string;
}

const foreignToken: Missing = {
  what: 'the ticket server does not know this token: it was enrolled at another server, or this one has lost its database',
  action: 'See that the folders token and server belong together: both are parts of one sandbox.',
};
const lostBatch: Missing = {
  what: 'the ticket server does not give out batches that it counts as stored',
  action: 'See whether its database is whole.',
};

/** What the server gives to anyone, over TLS that must chain to the authority that signed the token's certificate. */
class ServerReader {
  readonly #url: string;
  readonly #authorityPem: string;
  readonly #token: string;

  constructor(url: string, mount: Mount) {
    this.#url = url;
    this.#authorityPem = new X509Certificate(mount.authorityCertificate).toString();
    this.#token = `${paths.tokens}/${Buffer.from(mount.tokenId).toString('hex')}`;
  }

  async head(): Promise<TokenView> {
    return check(tokenViewSchema, JSON.parse((await this.#get(this.#token, foreignToken)).toString('utf8')));
  }

  /** Batches 1 to `last`, in order. */
  async *batches(last: number): AsyncGenerator<Uint8Array, undefined> {
    for (let next = 1; next <= last; ) {
      const limit = Math.min(uploadMaxBatches, last - next + 1);
      const { batches } = decodeUpload(await this.#get(`${this.#token}/batches?from=${next}&limit=${limit}`, lostBatch));
      for (const batch of batches) yield batch;
      next += batches.length;
    }
    return undefined;
  }

  /** `missing`: what it means when the server has no such thing. */
  #get(target: string, missing: Missing): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const fail = (why: string, cause?: unknown): void =>
        reject(endAs('unreachable', new UkeyError('offline', `the ticket server ${why}`, { action: 'See that the sandbox runs.', cause })));
      const asked = request(new URL(target, this.#url), { ca: this.#authorityPem, timeout: httpWaitMs, agent: false }, (answer) => {
        const chunks: Buffer[] = [];
        let length = 0;
        answer.on('data', (chunk: Buffer) => {
          length += chunk.length;
          if (length > answerMaxBytes) asked.destroy(new Error('too long an answer'));
          chunks.push(chunk);
        });
        answer.on('error', (cause) => fail('broke off', cause));
        answer.on('end', () => {
          if (answer.statusCode === 200) resolve(Buffer.concat(chunks));
          else if (answer.statusCode === 404)
            reject(endAs('unverified', new UkeyError('not-found', missing.what, { action: missing.action })));
          else fail(`answered ${answer.statusCode ?? 0}`);
        });
      });
      asked.on('timeout', () => asked.destroy(new Error('no answer in time')));
      asked.on('error', (cause) => fail(`cannot be reached: ${cause.message}`, cause));
      asked.end();
    });
  }
}

export function verdictText({ holds, differences, store, server, equalBatches, releasedBatches }: WorldVerdict): string {
  const column = (report: LedgerReport | null): string[] => {
    const sums = report?.sums ?? [];
    return [
      String(report?.batches ?? 0),
      String(report?.entries ?? 0),
      String(report === null ? 0 : documentsOf(report)),
      sums.map((sum) => `${sum.invoiceTotal} ${sum.currency}`).join(', ') || '0',
      sums.map((sum) => `${sum.creditNoteTotal} ${sum.currency}`).join(', ') || '0',
    ];
  };
  const names = ['batches', 'entries', 'documents', 'invoices, total', 'credit notes, total'];
  const mine = column(store);
  const theirs = column(server);
  const rows = names.map((name, at) => [name, mine[at] ?? '', theirs[at] ?? '']);
  rows.push(['acknowledged, as the token knows', `up to batch ${store.acknowledgedBatch}`, '']);
  const ahead = store.batches - (server?.batches ?? 0);
  const more = [
    ...(ahead > 0
      ? [
          `The token is ${counted(ahead, 'batch', 'batches')} ahead: the service goes on, and what it adds is sent later. That is no difference.`,
        ]
      : []),
    ...(store.acknowledgedBatch < store.batches
      ? ['An acknowledgement is written to the token as a batch of its own, so the newest batches are acknowledged by the next one.']
      : []),
  ];
  const verdict = holds
    ? `Store and server agree: ${equalBatches} batches equal, ${releasedBatches === 0 ? '' : `${releasedBatches} released from the token, `}${store.pending} documents not acknowledged yet.`
    : `Store and server do NOT agree:\n${differences.map((one) => `  ${one}`).join('\n')}`;
  return `${table(['', 'on the token', 'stored by the server'], rows, [1, 2])}\n${[...more, verdict].join('\n')}\n`;
}
