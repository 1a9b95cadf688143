// Owns: `failpoints`: named places on the way of one invoice, each struck many times in a whole service with a real server: device errors
// before, in the middle of and behind a write on FLASH and mirror, the till's line cut before the reply, the line cut in an upload and in its answer.
// Invariants: a till that is in doubt repeats under its key; at the end every key has one invoice, numbers have no gap, nothing is pending, and
// the server holds what the ledger holds. A point that was not struck often enough is uncovered, which is a violation.

import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import type { Device } from '#store/device.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';
import { seededRandom } from '#test/support/seed.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult, Violations } from './part.ts';

const hitsEach = 50;
/** More tries than hits: a cut line strikes only where something goes over it. */
const triesPerHit = 3;
const issueWaitMs = 60_000;
const drainWaitMs = 60_000;
const handshakeBytes = 1200;

type Strike = 'before' | 'torn' | 'behind';
type Side = 'flash' | 'mirror';

/** What strikes next, and how often each point did. */
class Points {
  readonly hits = new Map<string, number>();
  #openings = 0;
  /** As many there were at the last strike on a device. */
  #openingsThen = -1;
  #armed: { readonly side: Side; readonly strike: Strike; after: number } | null = null;

  arm(side: Side, strike: Strike, after: number): void {
    this.#armed = { side, strike, after };
  }

  /** The device asks at each write. */
  take(side: Side): Strike | null {
    if (this.#armed === null || this.#armed.side !== side) return null;
    if (this.#armed.after > 0) {
      this.#armed.after -= 1;
      return null;
    }
    const { strike } = this.#armed;
    this.#armed = null;
    this.#openingsThen = this.#openings;
    this.hit(`${side}-${strike}`);
    return strike;
  }

  opened(): void {
    this.#openings += 1;
  }

  /** What was struck last is behind the holder: it has opened the log anew. */
  get isOver(): boolean {
    return this.#openings > this.#openingsThen;
  }

  hit(name: string): void {
    this.hits.set(name, (this.hits.get(name) ?? 0) + 1);
  }

  get isArmed(): boolean {
    return this.#armed !== null;
  }

  disarm(): void {
    this.#armed = null;
  }
}

class StruckDevice implements Device {
  readonly #inner: Device;
  readonly #side: Side;
  readonly #points: Points;
  #dead = false;

  constructor(inner: Device, side: Side, points: Points) {
    this.#inner = inner;
    this.#side = side;
    this.#points = points;
  }

  get path(): string {
    return this.#inner.path;
  }
  get sizeBytes(): number {
    return this.#inner.sizeBytes;
  }
  get sectorBytes(): number {
    return this.#inner.sectorBytes;
  }
  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return this.#inner.read(positionBytes, lengthBytes);
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    if (this.#dead) throw new UkeyError('unknown-outcome', 'an earlier write failed');
    const strike = this.#points.take(this.#side);
    this.#dead = strike !== null;
    if (strike !== 'before') {
      const half = Math.floor(bytes.length / this.sectorBytes / 2) * this.sectorBytes;
      const kept = strike === 'torn' ? bytes.subarray(0, half) : bytes;
      if (kept.length > 0) await this.#inner.writeAndSync(positionBytes, kept);
    }
    if (strike !== null) throw new UkeyError('unknown-outcome', `struck ${strike} the write`);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

async function open(points: Points): Promise<Rig> {
  return await openRig({
    line: true,
    mirror: true,
    overrides: {
      startHolder: (config, events) => {
        const parts = partsOf(config);
        const { mirror } = parts;
        return joinHolder({
          ...parts,
          openDevice: async (readOnly) => {
            points.opened();
            return new StruckDevice(await parts.openDevice(readOnly), 'flash', points);
          },
          ...(mirror === undefined
            ? {}
            : {
                mirror: {
                  ...mirror,
                  open: async (tokenId, options) => new StruckDevice(await mirror.open(tokenId, options), 'mirror', points),
                },
              }),
          events,
          note: () => undefined,
          pollMs: 50,
        });
      },
    },
  });
}

class Sales {
  readonly #rig: Rig;
  readonly answered = new Map<string, Issued>();
  #count = 0;

  constructor(rig: Rig) {
    this.#rig = rig;
  }

  nextKey(): string {
    this.#count += 1;
    return `f${this.#count}`;
  }

  async sell(key = this.nextKey()): Promise<void> {
    this.answered.set(key, await this.#rig.till.issue(sale(key), { deadlineMs: issueWaitMs }));
  }

  /** Asks with a connection that is cut before it can hear the answer, then repeats on the right one. */
  async sellUnheard(random: () => number): Promise<void> {
    const key = this.nextKey();
    const deaf = await this.#rig.connectTill();
    const asked = deaf.issue(sale(key), { deadlineMs: issueWaitMs }).catch(() => null);
    await new Promise((resolve) => setTimeout(resolve, random() * 6));
    deaf.close();
    await asked;
    await this.sell(key);
  }
}

type Try = () => Promise<void>;

function tries(rig: Rig, sales: Sales, points: Points, random: () => number): Readonly<Record<string, Try>> {
  const draw = (below: number): number => Math.floor(random() * below);
  const device =
    (side: Side, strike: Strike): Try =>
    async () => {
      // Now the batch itself, now one behind it.
      const after = draw(3);
      points.arm(side, strike, after);
      await Promise.all(Array.from({ length: 1 + draw(3) }, () => sales.sell()));
      await sales.sell();
      // Sales at once may share a batch: until it has struck, each one more is a write more.
      for (let more = 0; more < after && points.isArmed; more += 1) await sales.sell();
      points.disarm();
      // An acknowledgement may have been struck behind all sales: a second fault, in the opening itself, is not what this is about: it locks the token.
      await until(async () => points.isOver && (await rig.admin.call('service.status', {})).standing.startsWith('issuing'));
    };
  const line =
    (name: string, cut: () => { readonly up?: number; readonly down?: number }): Try =>
    async () => {
      rig.line.hangUp();
      rig.line.cutOnce = cut();
      const before = rig.line.connections;
      await sales.sell();
      await rig.admin.call('backlog.flush', {}).catch(() => null);
      if (rig.line.connections > before) points.hit(name);
      rig.line.cutOnce = null;
    };
  return {
    'flash-before': device('flash', 'before'),
    'flash-torn': device('flash', 'torn'),
    'flash-behind': device('flash', 'behind'),
    'mirror-before': device('mirror', 'before'),
    'mirror-torn': device('mirror', 'torn'),
    'mirror-behind': device('mirror', 'behind'),
    reply: async () => {
      await sales.sellUnheard(random);
      points.hit('reply');
    },
    upload: line('upload', () => ({ up: handshakeBytes + draw(3000) })),
    ack: line('ack', () => ({ down: 800 + draw(3000) })),
  };
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + issueWaitMs;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error('the service did not come back from a strike');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function drain(rig: Rig): Promise<number> {
  const endMs = performance.now() + drainWaitMs;
  for (;;) {
    await rig.admin.call('backlog.flush', {}).catch(() => null);
    const { pending } = await rig.admin.call('backlog.status', {});
    if (pending === 0 || performance.now() > endMs) return pending;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function settle(rig: Rig, sales: Sales, violations: Violations): Promise<{ readonly lost: number; readonly doubled: number }> {
  await rig.restart();
  let lost = 0;
  for (const [key, answer] of sales.answered) {
    const again = await rig.till.issue(sale(key), { deadlineMs: issueWaitMs });
    if (again.document === answer.document && again.number === answer.number) continue;
    lost += 1;
    violations.add(`key ${key}: answered ${answer.number}, found ${again.number}`);
  }
  const numbers = [...sales.answered.values()].map((answer) => Number(answer.number.slice(2)));
  const doubled = numbers.length - new Set(numbers).size;
  if (doubled > 0) violations.add(`${doubled} numbers were given twice`);
  if (Math.max(...numbers) !== numbers.length) violations.add(`${numbers.length} invoices end at number ${Math.max(...numbers)}`);
  const pending = await drain(rig);
  if (pending > 0) violations.add(`${pending} documents never reached the server`);
  return { lost, doubled };
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const violations = new Violations();
  const random = seededRandom(options.seed);
  const points = new Points();
  const rig = await open(points);
  try {
    const sales = new Sales(rig);
    const wanted = scaled(hitsEach, options, 3);
    const all = tries(rig, sales, points, random);
    for (const [name, attempt] of Object.entries(all)) {
      for (let nth = 0; nth < wanted * triesPerHit && (points.hits.get(name) ?? 0) < wanted; nth += 1) await attempt();
      options.note(`${name}: ${points.hits.get(name) ?? 0}`);
    }
    const uncovered = Object.keys(all).filter((name) => (points.hits.get(name) ?? 0) < wanted);
    for (const name of uncovered) violations.add(`${name} was struck ${points.hits.get(name) ?? 0} times of ${wanted}`);
    const { lost, doubled } = await settle(rig, sales, violations);
    const hits = [...points.hits.values()].reduce((a, b) => a + b, 0);
    return {
      line: `points=${Object.keys(all).length} hits=${hits} invoices=${sales.answered.size} uncovered=${uncovered.length} lost=${lost} dup=${doubled}`,
      violations: violations.told,
    };
  } finally {
    await rig.close();
  }
}

export const failpoints: TorturePart = { name: 'failpoints', run };
