// Owns: filling a provisioned token with many entries quickly: the real drafts, numbering, sequencer, holder and store, in one process and without
// socket, index or uploads. What it leaves is a ledger as the service itself would have written it, but for batches of the size that is asked for.
// Invariants: the service does not run; the index is left as it was, so that the next start brings it up to the log.
import process from 'node:process';
import { makeDraft } from '#desk/draft.ts';
import { systemClock } from '#ground/clock.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import type { InvoiceRequest } from '#ipc-schema/invoice.ts';
import { CreditBook } from '#ledger/credits.ts';
import type { OpenLedger } from '#ledger/ledger.ts';
import { readLedger } from '#ledger/mounting.ts';
import { Sequencer } from '#ledger/sequencer.ts';
import type { Device } from '#store/device.ts';

export interface BuildQuestion {
  readonly config: HolderConfig;
  readonly pin: string;
  readonly requests: readonly InvoiceRequest[];
  readonly entries: number;
  readonly perBatch: number;
  readonly prefix: string;
}

export interface Built {
  readonly entries: number;
  readonly batches: number;
  readonly bodyBytes: number;
  /** Written to the FLASH (without the mirror). */
  readonly writtenBytes: number;
  /** By which the FLASH is fuller. */
  readonly usedBytes: number;
  readonly elapsedMs: number;
}

const lookMs = 20;
/** Batches on their way: the next is drafted while one is written. */
const ahead = 2;

let writtenBytes = 0;

function counted(device: Device): Device {
  return new Proxy(device, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        if (name === 'writeAndSync') writtenBytes += (args[1] as Uint8Array).length;
        return Reflect.apply(value, target, args);
      };
    },
  });
}

async function openHolder(config: HolderConfig): Promise<Holder> {
  const parts = partsOf(config);
  const openDevice = async (readOnly: boolean): Promise<Device> => counted(await parts.openDevice(readOnly));
  const holder = joinHolder({ ...parts, openDevice, events: { onState: () => undefined }, note: () => undefined });
  while (holder.state().kind !== 'locked') {
    if (holder.state().kind === 'halted') throw new Error('the token is halted');
    await new Promise((resolve) => setTimeout(resolve, lookMs));
  }
  return holder;
}

function sequencerOn(holder: Holder, { tip, charter }: OpenLedger): Sequencer {
  const credits = new CreditBook();
  if (charter === null) throw new Error('the token has no charter');
  return new Sequencer({
    holder,
    tip,
    clock: systemClock,
    circumstance: () => ({
      charter,
      credits,
      wallMs: Date.now(),
      limitFacts: (at) => ({
        mode: charter.mode,
        limits: charter.limits,
        validFromMs: Date.parse(charter.validFrom),
        validUntilMs: Date.parse(charter.validUntil),
        pendingCount: at.pending.count,
        pendingAmount: at.pending.amount,
        oldestAgeMs: null,
        link: 'down',
        wallMs: Date.now(),
        provenNowMs: null,
        newestEntryMs: at.lastIssuedAtMs,
        ackedServerMs: at.serverTimeMs,
      }),
    }),
    onSealed: () => () => undefined,
    onFailed: (error) => {
      throw error;
    },
  });
}

async function build(question: BuildQuestion): Promise<Built> {
  const { config, pin, requests, entries, perBatch, prefix } = question;
  const holder = await openHolder(config);
  const mount = await holder.login(Buffer.from(pin, 'utf8'), false);
  const open = await readLedger(holder, mount);
  const { charter, templates } = open;
  if (charter === null) throw new Error('the token has no charter');
  const sequencer = sequencerOn(holder, open);
  const tokenIdHex = Buffer.from(mount.tokenId).toString('hex');
  const before = await holder.status();
  writtenBytes = 0;
  let bodyBytes = 0;
  const startMs = performance.now();
  const onTheirWay: Promise<void>[] = [];
  for (let first = 0; first < entries; first += perBatch) {
    const nowMs = Date.now();
    const drafts = Array.from({ length: Math.min(perBatch, entries - first) }, (_, at) => {
      const request = requests[(first + at) % requests.length];
      if (request === undefined) throw new Error('there are no requests');
      return makeDraft(
        { ...request, key: `${prefix}${first + at}` },
        { terminal: 'till-1', tokenIdHex, charter, templates, nowMs, corrects: null },
      );
    });
    const batch = Promise.all(drafts.map((draft) => sequencer.commit(draft))).then((committed) => {
      for (const { body } of committed) bodyBytes += body.length;
    });
    onTheirWay.push(batch);
    // One tick apart, so that each has a batch of its own.
    await new Promise((resolve) => setImmediate(resolve));
    if (onTheirWay.length >= ahead) await onTheirWay.shift();
  }
  await Promise.all(onTheirWay);
  const elapsedMs = performance.now() - startMs;
  const written = writtenBytes;
  const after = await holder.status();
  const batches = sequencer.durableTip.nextBatch - open.tip.nextBatch;
  await holder.close();
  return { entries, batches, bodyBytes, writtenBytes: written, usedBytes: after.usedBytes - before.usedBytes, elapsedMs };
}

process.once('message', (question: BuildQuestion) => {
  build(question).then(
    (built) => process.send?.(built, undefined, undefined, () => process.exit(0)),
    (thrown: unknown) => {
      process.stderr.write(`the builder failed: ${thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)}\n`);
      process.exit(1);
    },
  );
});
