// Owns: the parts `store-errors` and `service-errors`. `store-errors`: at each write and sync of FLASH or mirror in turn an error, a full
// device or half a write; nothing is answered afterwards, and after opening again everything answered is there. `service-errors`: the same,
// and syncs of two seconds, under a whole service with tills, whose status must go on answering.
// Invariants: a failed sync drops a random half of what it did not write and the next one says yes, as Linux does; then the power goes too.
// Control: a caller who is told before it is durable loses something at the same points.
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { startServer } from '#server/serve.ts';
import { sizeFor } from '#test/store/rig.ts';
import { seededRandom } from '#test/support/seed.ts';
import { type Answered, judgeLedger, Machine, machinePin, sell } from './os-machine.ts';
import { missingForPower, openPowerDevice, type PowerDevice } from './os-power-device.ts';
import { type Outcome, StoreLife } from './os-store-life.ts';
import { missingForStrace, underStrace } from './os-strace.ts';
import { scaled, type TorturePart, Violations } from './part.ts';

const segments = 8;
const steps = 60;
const mib = 1024 * 1024;

interface Fault {
  readonly op: 'write' | 'sync';
  readonly how: 'eio' | 'enospc' | 'short';
}
const storeFaults: readonly Fault[] = [
  { op: 'write', how: 'eio' },
  { op: 'write', how: 'enospc' },
  { op: 'write', how: 'short' },
  { op: 'sync', how: 'eio' },
  { op: 'sync', how: 'enospc' },
];

export interface ErrorTally {
  readonly points: number;
  /** Points where the fault struck and the caller was told an error. */
  readonly failed: number;
  readonly late: number;
  readonly lost: number;
  readonly told: readonly string[];
}

export interface ErrorOrder {
  readonly seed: number;
  /** Each fault strikes at each of these operations, at FLASH or mirror. */
  readonly places: readonly number[];
  readonly eager: boolean;
  /** Without one nothing but the next opening can put right what a failed sync has dropped. */
  readonly mirrored: boolean;
}

/** Appended after the store was opened again, and answered, before the power goes. */
const stepsBetween = 4;

/** What went wrong in one session, and in the look at what it left. */
function faultsOf(outcome: Outcome): string[] {
  const wrong = [...outcome.lost, ...outcome.bad];
  if (outcome.late > 0) wrong.push(`${outcome.late} answers after the error`);
  return wrong;
}

export async function strikeStore(order: ErrorOrder): Promise<ErrorTally> {
  const device = await openPowerDevice(sizeFor(segments), ['flash', 'mirror']);
  const random = seededRandom(order.seed);
  const draw = (): number => Math.floor(random() * 2 ** 31);
  const told = new Violations();
  const tally = { points: 0, failed: 0, late: 0, lost: 0 };
  try {
    const life = new StoreLife(device.pathOf('flash'), order.mirrored ? device.pathOf('mirror') : null);
    for (const name of ['flash', 'mirror']) device.tell(`mode ${name} cached`);
    await life.begin(draw());
    for (const nth of order.places) {
      for (const { op, how } of storeFaults) {
        const image = random() < 0.5 || !order.mirrored ? 'flash' : 'mirror';
        device.tell(`fault ${image} ${op} ${nth} ${draw()} ${how}`);
        const struck = await life.run({ seed: draw(), steps, eager: order.eager });
        device.tell('clear');
        // What a failed sync has dropped can be read as long as nobody forgets it: then comes an opening that sees it, and answers more.
        const between = random() < 0.5 ? await life.run({ seed: draw(), steps: stepsBetween }) : null;
        if (random() < 0.5) {
          device.tell(`cut ${draw()} 0`);
          device.tell('on');
        }
        const after = await life.run({ seed: draw(), steps: 0, checkSides: true, sidesFirst: between !== null });
        tally.points += 1;
        tally.failed += struck.failure === null ? 0 : 1;
        tally.late += struck.late;
        const wrong = [...faultsOf(struck), ...(between === null ? [] : faultsOf(between)), ...faultsOf(after)];
        if (!after.ended) wrong.push(`the store does not open: ${after.failure}`);
        if (wrong.length > 0) {
          tally.lost += 1;
          await life.begin(draw());
        }
        for (const what of wrong) told.add(`seed ${order.seed}, ${how} at ${op} ${nth} of the ${image}: ${what}`);
      }
    }
    return { ...tally, told: told.told };
  } finally {
    await device.close();
  }
}

/** The same by strace, on plain files: errors of the system call itself. */
async function strikeCalls(seed: number, places: number): Promise<ErrorTally> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-errors-'));
  const random = seededRandom(seed);
  const draw = (): number => Math.floor(random() * 2 ** 31);
  const told = new Violations();
  const tally = { points: 0, failed: 0, late: 0, lost: 0 };
  try {
    const [flash, mirror] = ['flash', 'mirror'].map((name) => {
      const file = path.join(folder, name);
      writeFileSync(file, '');
      truncateSync(file, sizeFor(segments));
      return file;
    });
    const life = new StoreLife(flash ?? '', mirror ?? '');
    await life.begin(draw());
    for (let nth = 1; nth <= places; nth += 1) {
      const call = nth % 2 === 0 ? 'fdatasync' : 'pwrite64';
      const error = nth % 3 === 0 ? 'ENOSPC' : 'EIO';
      const struck = await life.run({ seed: draw(), steps }, { wrapping: underStrace(call, String(nth), { kind: 'error', error }) });
      const after = await life.run({ seed: draw(), steps: 0, checkSides: true });
      tally.points += 1;
      tally.failed += struck.failure === null ? 0 : 1;
      tally.late += struck.late;
      const wrong = [...faultsOf(struck), ...faultsOf(after)];
      if (!after.ended) wrong.push(`the store does not open: ${after.failure}`);
      tally.lost += wrong.length > 0 ? 1 : 0;
      for (const what of wrong) told.add(`seed ${seed}, ${error} at ${call} ${nth}: ${what}`);
    }
    return { ...tally, told: told.told };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
/** Behind the opening: there a session has answered something. */
const controlPlaces = [16, 20, 24, 28];

export const storeErrors: TorturePart = {
  name: 'store-errors',
  run: async (options) => {
    const why = missingForPower() ?? missingForStrace();
    if (why !== null) return { line: '', violations: [], missing: why };
    const { seed } = options;
    const places = upTo(scaled(40, options, 3));
    const device = await strikeStore({ seed, places, eager: false, mirrored: true });
    const alone = await strikeStore({ seed: seed + 3, places, eager: false, mirrored: false });
    const calls = await strikeCalls(seed + 1, scaled(40, options, 4));
    const control = await strikeStore({ seed: seed + 2, places: controlPlaces, eager: true, mirrored: true });
    const violations = [...device.told, ...alone.told, ...calls.told];
    if ([device, alone, calls].some(({ failed }) => failed === 0)) violations.push('no error was told: nothing was struck');
    if (control.lost === 0) violations.push('the control lost nothing: the test is void');
    const sum = (of: 'points' | 'failed' | 'late' | 'lost'): number => device[of] + alone[of] + calls[of];
    const line = `points=${sum('points')} failed=${sum('failed')} acks_after_error=${sum('late')} lost=${sum('lost')} control_lost=${control.lost}`;
    return { line, violations };
  },
};

const serviceFaults = ['write eio', 'write enospc', 'write short', 'sync eio', 'sync 2000', 'write 2000'] as const;
/** Asks for the status again and again; how long each answer took. */
async function watch(machine: Machine, over: () => boolean): Promise<number[]> {
  return await machine.withAdmin(async (admin) => {
    const tookMs: number[] = [];
    while (!over()) {
      const fromMs = performance.now();
      await admin.call('service.status', {});
      tookMs.push(performance.now() - fromMs);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return tookMs.sort((a, b) => a - b);
  });
}

export interface ServiceTally {
  readonly points: number;
  readonly fired: number;
  readonly answered: number;
  readonly statusP99Ms: number;
  readonly lost: number;
  readonly told: readonly string[];
}

/** A service on FLASH and mirror that fail in turn, two tills, and one who asks for the status. */
export async function strikeService(seed: number, points: number, note: (text: string) => void): Promise<ServiceTally> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-errors-'));
  const device: PowerDevice = await openPowerDevice(32 * mib, ['flash', 'mirror']);
  for (const name of ['flash', 'mirror']) device.tell(`mode ${name} cached`);
  const server = await startServer({ directory: path.join(folder, 'server') });
  const machine = new Machine({ directory: folder, flash: device.pathOf('flash'), mirror: { path: device.pathOf('mirror') } });
  const random = seededRandom(seed);
  const told = new Violations();
  const answered: Answered[] = [];
  try {
    machine.start();
    await machine.provision(server);
    let over = false;
    const selling = Promise.all(['a', 'b'].map((name) => sell(machine, name, () => over, answered)));
    const watching = watch(machine, () => over);
    // Awaited at the end: a failure before must not end this process without cleaning up.
    for (const work of [selling, watching]) work.catch((thrown: unknown) => note(String(thrown)));
    const { fired: before } = device.state();
    for (let point = 0; point < points; point += 1) {
      const image = random() < 0.5 ? 'flash' : 'mirror';
      const fault = serviceFaults[point % serviceFaults.length];
      const [op = '', how = ''] = fault?.split(' ') ?? [];
      const firedBefore = device.state().fired;
      device.tell(`fault ${image} ${op} ${1 + Math.floor(random() * 20)} ${Math.floor(random() * 2 ** 31)} ${how}`);
      const soldBefore = answered.length;
      const giveUpAtMs = performance.now() + 30_000;
      // Struck, and going on: then the next.
      while ((device.state().fired === firedBefore || answered.length < soldBefore + 6) && performance.now() < giveUpAtMs)
        await new Promise((resolve) => setTimeout(resolve, 20));
      if (performance.now() >= giveUpAtMs) {
        const { standing, reason } = await machine.status();
        told.add(`seed ${seed}, ${fault} of the ${image}: it does not go on by itself: ${standing}: ${reason}`);
        await machine.kill();
        machine.start();
        await machine.untilIssuing();
      }
      // A mirror that failed is taken again by the next opening.
      if (image === 'mirror') await reopen(machine);
      note(`${point + 1} of ${points}: ${image} ${fault}`);
    }
    over = true;
    await selling;
    const tookMs = await watching;
    const fired = device.state().fired - before;
    await machine.stop();
    const verdict = await judgeLedger(machine, answered);
    const lost = verdict.lost + verdict.doubled + verdict.findings;
    if (lost > 0) told.add(`seed ${seed}: ${JSON.stringify(verdict)}`);
    const statusP99Ms = Math.ceil(tookMs[Math.floor(tookMs.length * 0.99)] ?? 0);
    return { points, fired, answered: answered.length, statusP99Ms, lost, told: told.told };
  } finally {
    await machine.kill();
    await server.close();
    await device.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function reopen(machine: Machine): Promise<void> {
  await machine.withAdmin(async (admin) => {
    await admin.call('session.logout', {});
    await admin.call('session.login', { pin: machinePin });
  });
}

/** What a till may wait for a look at the service, whatever its devices do. */
const statusP99MaxMs = 50;

export const serviceErrors: TorturePart = {
  name: 'service-errors',
  run: async (options) => {
    const why = missingForPower();
    if (why !== null) return { line: '', violations: [], missing: why };
    const tally = await strikeService(options.seed, scaled(60, options, 6), options.note);
    const violations = [...tally.told];
    if (tally.fired < tally.points) violations.push(`only ${tally.fired} of ${tally.points} faults struck`);
    if (tally.statusP99Ms > statusP99MaxMs) violations.push(`the status took ${tally.statusP99Ms} ms (p99)`);
    const line = `points=${tally.points} fired=${tally.fired} answered=${tally.answered} lost=${tally.lost} status_p99_ms=${tally.statusP99Ms}`;
    return { line, violations };
  },
};
