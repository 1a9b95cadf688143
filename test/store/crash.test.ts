// Crash states: a short history is recorded, then every write of it is cut at every sector boundary, with sectors lost in
// other patterns too, and the store is opened on what is left. A device that lies about sync must lose data in the same run.
import { expect, it } from 'vitest';
import { type Medium, tornWrite, type Write } from '#test/support/memory-device.ts';
import { appendAll, checkpointBefore, deviceOn, failureOf, newStore, open, payloadOf, readAll, seeded } from './rig.ts';

const segments = 3;
const sectorBytes = 512;
const seed = Number(process.env['SEED'] ?? 20_240_611);

interface Step {
  readonly before: Medium;
  readonly write: Write;
  /** Frames whose append had resolved when this write began. */
  readonly acked: number;
  readonly label: string;
}

/** Sizes by opening: small, several sectors, and enough to roll over into the next segment. */
const history: readonly (readonly number[])[] = [[300, 1500, 40], [4000, 700], [], [30_000, 29_000, 600, 90], [10]];

async function record(): Promise<{ steps: Step[]; sizes: number[] }> {
  const steps: Step[] = [];
  const sizes: number[] = [];
  let medium = (await newStore(segments)).snapshot();
  for (const [opening, appended] of history.entries()) {
    const device = deviceOn(medium, segments);
    const marks: number[] = [];
    const log = await open(device, 100 + opening);
    const next = log.mounted.nextIndex;
    for (const [place, bytes] of appended.entries()) {
      while (marks.length < device.writes.length) marks.push(sizes.length);
      await log.append(payloadOf(next + place, bytes), checkpointBefore(next + place));
      marks.push(sizes.length);
      sizes.push(bytes);
    }
    // Every other opening ends without closing, as a killed process does.
    if (opening % 2 === 0) await log.close();
    while (marks.length < device.writes.length) marks.push(sizes.length);
    for (const [nth, write] of device.writes.entries()) {
      steps.push({ before: medium, write, acked: marks[nth] ?? 0, label: `opening ${opening} write ${nth}` });
      medium = tornWrite(medium, write, sectorBytes, () => true);
    }
  }
  return { steps, sizes };
}

/** Which sectors of a write may have arrived: every prefix and suffix, in short writes each alone and each missing, and some at random. */
function patterns(sectors: number, random: () => number): ((sector: number) => boolean)[] {
  const all: ((sector: number) => boolean)[] = [];
  if (sectors <= 5) {
    for (let subset = 0; subset < 2 ** sectors; subset += 1) all.push((sector) => ((subset >> sector) & 1) === 1);
    return all;
  }
  for (let cut = 0; cut <= sectors; cut += 1) {
    all.push((sector) => sector < cut);
    all.push((sector) => sector >= cut);
    if (sectors > 16) continue;
    all.push((sector) => sector === cut);
    all.push((sector) => sector !== cut);
  }
  for (let draw = 0; draw < 12; draw += 1) {
    const drawn = Array.from({ length: sectors }, () => random() < 0.5);
    all.push((sector) => drawn[sector] === true);
  }
  return all;
}

async function check(medium: Medium, acked: number, sizes: readonly number[], label: string): Promise<Medium> {
  const device = deviceOn(medium, segments);
  const log = await open(device, 500).catch((cause: unknown) => {
    throw new Error(`${label} cannot be opened (seed ${seed})`, { cause });
  });
  const { nextIndex } = log.mounted;
  if (nextIndex <= acked || nextIndex > acked + 2)
    throw new Error(`${label}: ${acked} acknowledged, ${nextIndex - 1} found (seed ${seed})`);
  const frames = await readAll(log, 1_000_000);
  if (frames.length !== nextIndex - 1) throw new Error(`${label}: ${frames.length} of ${nextIndex - 1} frames (seed ${seed})`);
  for (const frame of frames) {
    if (!payloadOf(frame.index, sizes[frame.index - 1] ?? 0).equals(frame.payload))
      throw new Error(`${label}: frame ${frame.index} is wrong`);
  }
  return device.snapshot();
}

it('no cut at any sector of any write loses what was acknowledged or makes the store unreadable', { timeout: 120_000 }, async () => {
  const random = seeded(seed);
  const { steps, sizes } = await record();
  let states = 0;
  for (const { before, write, acked, label } of steps) {
    for (const keeps of patterns(write.bytes.length / sectorBytes, random)) {
      await check(tornWrite(before, write, sectorBytes, keeps), acked, sizes, label);
      states += 1;
    }
  }
  console.log(`seed=${seed} steps=${steps.length} states=${states} acked_lost=0 unreadable=0 wrong=0`);
  expect(states).toBeGreaterThan(1500);
});

it('crashes on top of crashes lose nothing either', { timeout: 120_000 }, async () => {
  const random = seeded(seed + 1);
  let crashes = 0;
  for (let life = 0; life < 25; life += 1) {
    let medium = (await newStore(segments)).snapshot();
    let acked = 0;
    const sizes: number[] = [];
    for (let crash = 0; crash < 12; crash += 1) {
      const device = deviceOn(medium, segments);
      // Sometimes the power goes while the superblocks are being written, sometimes at the first write of a run.
      device.failWrite(1 + Math.floor(random() * 9), { kind: 'torn', keeps: () => random() < 0.5 });
      const log = await open(device, life * 100 + crash).catch(() => null);
      if (log !== null) {
        expect(log.mounted.nextIndex - 1).toBeGreaterThanOrEqual(acked);
        sizes.length = log.mounted.nextIndex - 1;
        for (let append = 0; append < 6; append += 1) {
          const bytes = Math.floor(random() * 1800);
          sizes.push(bytes);
          const index = sizes.length;
          if ((await failureOf(log.append(payloadOf(index, bytes), checkpointBefore(index)))) !== null) break;
          acked = index;
        }
      }
      medium = device.snapshot();
      await check(medium, acked, sizes, `life ${life} crash ${crash}`);
      crashes += 1;
    }
  }
  console.log(`seed=${seed + 1} crashes=${crashes} acked_lost=0 unreadable=0 wrong=0`);
});

it('control: a device that says durable before it is loses data, so the tests above can fail', async () => {
  const honest = await newStore(segments);
  const device = deviceOn(honest.snapshot(), segments, { lies: true });
  const log = await open(device);
  await appendAll(log, 1, [300, 300, 300]);
  const medium = device.powerCut();
  await expect(check(medium, 3, [300, 300, 300], 'control')).rejects.toThrow();
  const after = await open(deviceOn(medium, segments));
  expect(after.mounted.nextIndex).toBe(1);
  console.log('control_lost=3');
});
