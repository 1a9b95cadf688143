// Owns: a holder process over a driver that fails as it is told, and what must hold then: the trials that quick tests and `npm run torture` share.
// Invariants: each trial counts what must be nil (unmapped codes, crashes, tries of the PIN, wrong seals); all chance comes from the caller.
import { setTimeout } from 'node:timers/promises';
import type { ParentHolder } from '#holder/parent.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { FileRig, startParent } from '#test/holder/rigs.ts';
import { type CallName, FaultyModule } from '#test/support/faulty-module.ts';
import { codeOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { createSoftHsmWorld, type SoftHsmWorld } from '#test/support/softhsm.ts';
import { ckrTable } from '#token/ckr.ts';

/** Longer than a signature takes on a busy machine. */
export const sealDeadlineMs = 2_000;
const settleMs = 30_000;
/** A process's notes come by another way than its answers. */
const noteMs = 30;

export class DriverRig extends FileRig<ParentHolder> {
  readonly module: FaultyModule;
  readonly #world: SoftHsmWorld;
  /** Times that somebody asked for a login. */
  logins = 0;

  private constructor(world: SoftHsmWorld, module: FaultyModule) {
    super(startParent({ deadlines: { seal: sealDeadlineMs, login: 20_000 }, restartLongestMs: 100 }), { module: module.path });
    this.#world = world;
    this.module = module;
  }

  /** Provisioned and open. */
  static async open(softHsm: string): Promise<DriverRig> {
    // World and module before the process that inherits their environment.
    const rig = new DriverRig(createSoftHsmWorld(softHsm), new FaultyModule(softHsm));
    await rig.watch.until('blank', 0, settleMs);
    await provisionHolder(rig.holder);
    return rig;
  }

  /** Open again with a driver that is well, in a process that stays: one that has given up ends a moment after its last answers. */
  async heal(): Promise<void> {
    this.module.calm();
    await setTimeout(noteMs);
    const giveUpAtMs = performance.now() + settleMs;
    while (this.holder.state().kind !== 'open' || this.#hasGivenUp()) {
      if (performance.now() > giveUpAtMs) throw new Error(`the holder stays ${JSON.stringify(this.holder.state())}`);
      if (this.holder.state().kind === 'locked') await codeOf(this.login());
      else await setTimeout(10);
    }
  }

  /** It has said so, and has not ended yet. */
  #hasGivenUp(): boolean {
    const last = (what: string): number => this.notes.findLastIndex((line) => line.includes(what));
    return last('gives up for a new one') > last('the holder process ended');
  }

  async login(): Promise<void> {
    this.logins += 1;
    await this.holder.login(pinBytes(), false);
  }

  drafts(): Promise<DraftMaker> {
    return this.holder.login(pinBytes(), false).then((mount) => new DraftMaker(mount)); // open: no try
  }

  /** What all the seals say that are stored. Throws when one does not hold. */
  async stored(): Promise<readonly string[]> {
    return await readVerified(this.holder, await this.holder.login(pinBytes(), false));
  }

  override async remove(): Promise<void> {
    await this.holder.close();
    this.module.remove();
    this.#world.remove();
    await super.remove();
  }
}

/** Those that a login makes (it writes the anchor as well), and those of a signature. */
export const sweptCalls: readonly CallName[] = [
  'C_GetSlotList',
  'C_GetTokenInfo',
  'C_OpenSession',
  'C_GetSessionInfo',
  'C_FindObjectsInit',
  'C_FindObjects',
  'C_CreateObject',
  'C_DestroyObject',
  'C_SignInit',
  'C_Sign',
];
/** Every code of the table, and one that a vendor made up. */
export const sweptCodes: readonly number[] = [
  ...Object.values(ckrTable)
    .map(({ value }) => value)
    .filter((value) => value !== 0),
  0x8000_0666,
];

export interface Sweep {
  cases: number;
  /** Cases in which the module really answered the code. */
  hits: number;
  /** Refusals that tell a till nothing. */
  unmapped: string[];
  /** Processes that ended otherwise than by their own wish. */
  crashes: number;
  /** Calls of C_Login beyond the logins that were asked for. */
  pinTries: number;
  lost: number;
}

const tellingCodes: readonly string[] = [
  'not refused',
  'token-failed',
  'no-token',
  'locked',
  'unknown-outcome',
  'pin-locked',
  'pin-incorrect',
];

/** Each case: one call answers one code once, in a login or in a signature; afterwards all is as before. */
export async function sweepCodes(rig: DriverRig, cases: readonly (readonly [CallName, number])[]): Promise<Sweep> {
  const sweep: Sweep = { cases: 0, hits: 0, unmapped: [], crashes: 0, pinTries: 0, lost: 0 };
  const durable: string[] = [];
  const loginsBefore = { asked: rig.logins, made: rig.module.calls('C_Login') };
  for (const [call, code] of cases) {
    const name = `${call} 0x${code.toString(16)}`;
    const body = `${name} ${sweep.cases}`;
    const rule = { on: call, fault: { kind: 'ckr', value: code }, times: 1 } as const;
    let ended: string;
    if (call.startsWith('C_Sign')) {
      const draft = (await rig.drafts()).next([body]);
      rig.module.obey(rule);
      ended = await codeOf(rig.holder.commit(draft).durable);
      if (ended === 'not refused') durable.push(body);
    } else {
      await rig.holder.logout();
      // A session that is lost is what has another one opened.
      const lose = { on: 'C_GetSessionInfo', fault: { kind: 'ckr', value: 0xb3 }, times: 1 } as const;
      rig.module.obey(rule, ...(call === 'C_OpenSession' ? [lose] : []));
      ended = await codeOf(rig.login());
      // Whoever is let in can sell, or is told at once why not.
      if (ended === 'not refused') {
        ended = await codeOf(rig.holder.commit((await rig.drafts()).next([body])).durable);
        if (ended === 'not refused') durable.push(body);
      }
    }
    // The one code of the table that blames the request: it belongs to a new PIN.
    const isWeakPin = code === ckrTable.CKR_PIN_TOO_WEAK.value && ended === 'invalid-request';
    if (!tellingCodes.includes(ended) && !isWeakPin) sweep.unmapped.push(`${name}: ${ended}`);
    if (rig.module.asked() > 0) sweep.hits += 1;
    await rig.heal();
    sweep.cases += 1;
  }
  sweep.pinTries = Math.max(0, rig.module.calls('C_Login') - loginsBefore.made - (rig.logins - loginsBefore.asked));
  sweep.crashes = rig.notes.filter((line) => /SIGSEGV|SIGABRT|SIGBUS|ended \(\d/.test(line)).length;
  const stored = await rig.stored();
  sweep.lost = durable.filter((body) => !stored.includes(body)).length;
  return sweep;
}

/** Status while `work` is under way: how long each answer took. */
export async function statusDuring(rig: DriverRig, work: Promise<unknown>): Promise<number[]> {
  const tookMs: number[] = [];
  let isOver = false;
  const ended = work.then(
    () => (isOver = true),
    () => (isOver = true),
  );
  while (!isOver) {
    const startMs = performance.now();
    await rig.holder.status().catch((error: unknown) => {
      if (!(error instanceof UkeyError)) throw error; // between two processes there are no figures
    });
    tookMs.push(performance.now() - startMs);
    await Promise.race([ended, setTimeout(5)]);
  }
  return tookMs;
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
