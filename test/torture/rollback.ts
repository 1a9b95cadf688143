// Owns: `rollback`: older copies of FLASH and mirror are put back under a real holder, tokens are exchanged, a second service is started.
// Invariants: an older FLASH (with its older mirror, or without any) opens nothing, signs nothing and is not written; an older side beside
// the right one is healed. `window`: what the KEY's anchor cannot see after a kill is measured, not assumed. Controls: the right copies open.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import { createImage, openFileDevice } from '#store/device-file.ts';
import { imageBytes, MemoryMirror, MemoryRig } from '#test/holder/rigs.ts';
import { codeOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { type Medium, MemoryDevice } from '#test/support/memory-device.ts';
import { seededRandom } from '#test/support/seed.ts';
import { StepClock } from '#test/support/step-clock.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult, Violations } from './part.ts';

const roundsEach = 200;
/** Copies that a thief keeps, one for each draw. */
const copiesMax = 12;
const windowStepMs = 500;
const windowBatches = 238;

interface Copies {
  readonly flash: Medium;
  readonly mirror: Medium;
}

const fresh = (medium: Medium): MemoryDevice => new MemoryDevice({ sizeBytes: imageBytes, medium });

function isSame(a: Medium, b: Medium): boolean {
  return a.size === b.size && [...a].every(([page, bytes]) => Buffer.compare(bytes, b.get(page) ?? new Uint8Array(0)) === 0);
}

type Which = 'flash' | 'flash and mirror' | 'mirror' | 'flash beside its mirror';

class Ledger {
  readonly mirror = new MemoryMirror();
  readonly rig: MemoryRig;
  #drafts: DraftMaker = new DraftMaker({ nextBatch: 1, nextSequence: 1 });
  issued = 0;

  constructor(mirrored: boolean) {
    this.rig = new MemoryRig(mirrored ? { mirror: this.mirror } : {});
  }

  async begin(): Promise<void> {
    await this.rig.watch.until('blank');
    this.#drafts = new DraftMaker(await provisionHolder(this.rig.holder));
  }

  copies(): Copies {
    return { flash: this.rig.device?.snapshot() ?? new Map(), mirror: this.mirror.device?.snapshot() ?? new Map() };
  }

  async issue(count: number): Promise<void> {
    for (let nth = 0; nth < count; nth += 1) {
      this.issued += 1;
      await this.rig.holder.commit(this.#drafts.next([`${this.issued}`])).durable;
    }
  }

  put({ flash, mirror }: Partial<Copies>): void {
    if (flash !== undefined) this.rig.device = fresh(flash);
    if (mirror !== undefined) this.mirror.device = fresh(mirror);
  }

  async open(): Promise<string> {
    await this.rig.restart();
    try {
      const mount = await this.rig.holder.login(pinBytes(), false);
      this.#drafts = new DraftMaker(mount);
      return 'open';
    } catch (thrown) {
      if (thrown instanceof UkeyError) return thrown.code;
      throw thrown;
    }
  }

  /** All that was issued, verified with public keys alone. */
  async isComplete(): Promise<boolean> {
    const bodies = await readVerified(this.rig.holder, await this.rig.holder.login(pinBytes(), false), 8 * 1024 * 1024);
    return bodies.length === this.issued && bodies.every((body, at) => body === `${at + 1}`);
  }
}

interface Tally {
  rounds: number;
  detected: number;
  healed: number;
  issuedAfter: number;
  writtenAfter: number;
}

async function refused(ledger: Ledger, tally: Tally): Promise<boolean> {
  const before = ledger.copies();
  const { signatures } = ledger.rig.token;
  const code = await ledger.open();
  const draft = new DraftMaker({ nextBatch: 1, nextSequence: 1 }).peek(['stolen']);
  if ((await codeOf(ledger.rig.holder.commit(draft).durable)) === 'not refused') tally.issuedAfter += 1;
  tally.issuedAfter += ledger.rig.token.signatures - signatures;
  const after = ledger.copies();
  if (!isSame(before.flash, after.flash) || !isSame(before.mirror, after.mirror)) tally.writtenAfter += 1;
  return code === 'halted';
}

async function rounds(which: Which, count: number, random: () => number, violations: Violations): Promise<Tally> {
  const tally: Tally = { rounds: 0, detected: 0, healed: 0, issuedAfter: 0, writtenAfter: 0 };
  const ledger = new Ledger(which !== 'flash');
  await ledger.begin();
  const kept: Copies[] = [];
  const expectsHealing = which === 'mirror' || which === 'flash beside its mirror';
  for (let round = 0; round < count; round += 1) {
    await ledger.issue(1 + Math.floor(random() * 3));
    if (kept.length < copiesMax) kept.push(ledger.copies());
    else kept[Math.floor(random() * copiesMax)] = ledger.copies();
    await ledger.issue(1);
    await ledger.rig.holder.close();
    const right = ledger.copies();
    const old = kept[Math.floor(random() * kept.length)] ?? right;
    ledger.put(which === 'flash and mirror' ? old : which === 'mirror' ? { mirror: old.mirror } : { flash: old.flash });
    tally.rounds += 1;
    if (expectsHealing) {
      const code = await ledger.open();
      if (code === 'open' && (await ledger.isComplete())) tally.healed += 1;
      else violations.add(`an older ${which}, round ${round}: ${code}, and not all is there`);
      continue;
    }
    if (await refused(ledger, tally)) tally.detected += 1;
    else violations.add(`an older ${which}, round ${round}: it was not refused`);
    await ledger.rig.holder.close();
    ledger.put(right);
    const code = await ledger.open();
    if (code !== 'open') {
      violations.add(`void: the right copies do not open after round ${round}: ${code}`);
      return tally;
    }
  }
  if (!(await ledger.isComplete())) violations.add(`${which}: what was issued is not all there`);
  await ledger.rig.holder.close();
  return tally;
}

/** After a kill: how many batches, and how much time, an older copy of the same opening may lack without the KEY's knowing. */
async function measureWindow(): Promise<{ readonly batches: number; readonly ms: number }> {
  const clock = new StepClock();
  let looked = (): void => undefined;
  const rig = new MemoryRig({ clock, onLooked: () => looked() });
  await rig.watch.until('blank');
  const drafts = new DraftMaker(await provisionHolder(rig.holder));
  const copies: Medium[] = [];
  for (let nth = 0; nth < windowBatches; nth += 1) {
    await rig.holder.commit(drafts.next([`${nth}`])).durable;
    clock.pass(windowStepMs);
    await new Promise<void>((resolve) => {
      looked = resolve;
    });
    copies.push(rig.device?.snapshot() ?? new Map());
  }
  // Killed: its device dies with it, so that no clean close anchors anything.
  const { token } = rig;
  const kept = new Map(['anchor-0', 'anchor-1'].map((name) => [name, token.readObject(name)] as const));
  await rig.holder.close();
  for (const [name, value] of kept) if (value !== null) token.writeObject(name, value);
  let oldest = copies.length - 1;
  for (let at = copies.length - 1; at >= 0; at -= 1) {
    const thief = new MemoryRig({ clock, readOnly: true }, token);
    thief.device = fresh(copies[at] ?? new Map());
    await thief.restart();
    const code = await codeOf(thief.holder.login(pinBytes(), false));
    await thief.holder.close();
    if (code !== 'not refused') break;
    oldest = at;
  }
  const batches = copies.length - 1 - oldest;
  return { batches, ms: batches * windowStepMs };
}

/** Another token in the place of the right one: 1 for each that opened or wrote. */
async function swapped(): Promise<{ readonly opened: number; readonly written: number }> {
  const ledger = new Ledger(true);
  await ledger.begin();
  await ledger.issue(3);
  await ledger.rig.holder.close();
  const before = ledger.copies();
  await ledger.rig.swapToken();
  const code = await codeOf(ledger.rig.holder.login(pinBytes(), false));
  const after = ledger.copies();
  await ledger.rig.holder.close();
  const written = isSame(before.flash, after.flash) && isSame(before.mirror, after.mirror) ? 0 : 1;
  return { opened: code === 'not refused' ? 1 : 0, written };
}

async function second(): Promise<boolean> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-second-'));
  const file = path.join(folder, 'flash.img');
  try {
    await createImage(file, imageBytes);
    const first = await openFileDevice(file, { readOnly: false });
    const code = await codeOf(openFileDevice(file, { readOnly: false, lockWaitMs: 50 }));
    await first.close();
    return code !== 'not refused';
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const violations = new Violations();
  const count = scaled(roundsEach, options, 5);
  const random = seededRandom(options.seed);
  const tallies: Tally[] = [];
  for (const which of ['flash', 'flash and mirror', 'mirror', 'flash beside its mirror'] as const) {
    tallies.push(await rounds(which, count, random, violations));
    options.note(`older ${which}: ${count} rounds`);
  }
  const sum = (name: keyof Tally): number => tallies.reduce((total, tally) => total + tally[name], 0);
  const window = await measureWindow();
  const swap = await swapped();
  const isRefused = await second();
  if (sum('issuedAfter') > 0) violations.add(`${sum('issuedAfter')} signatures or batches after a rollback`);
  if (sum('writtenAfter') > 0) violations.add(`${sum('writtenAfter')} times something was written after a rollback`);
  if (swap.opened + swap.written > 0) violations.add('a swapped token opened or wrote');
  if (!isRefused) violations.add('a second service was not refused');
  const shouldDetect = 2 * count;
  const detected = sum('detected') === shouldDetect ? 'all' : `${sum('detected')}/${shouldDetect}`;
  const healed = sum('healed') === 2 * count ? 'all' : `${sum('healed')}/${2 * count}`;
  return {
    line:
      `rounds=${sum('rounds')} detected=${detected} healed=${healed} issued_after=${sum('issuedAfter')} written_after=${sum('writtenAfter')} ` +
      `window=${window.batches}_batches/${window.ms}_ms swapped:opened=${swap.opened} written=${swap.written} second=${isRefused ? 'refused' : 'taken'}`,
    violations: violations.told,
  };
}

export const rollback: TorturePart = { name: 'rollback', run };
