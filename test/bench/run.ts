// Owns: `npm run bench`: which benchmarks run, in which order, with which sizes; the table on the screen and the results in a file.
// Usage: npm run bench -- [--quick] [--only B1,B4] [--dir FOLDER] [--module FILE|none] [--data FILE] [--docs]
// Invariants: nothing is asserted: a figure that misses its aim is printed, and the exit status says only whether everything could be measured.
// Worlds are made when they are first wanted, and everything is deleted at the end.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { softHsmModule } from '#test/support/softhsm.ts';
import type { Bench, Context, Row } from './benchmark.ts';
import { fill } from './builder.ts';
import { writeDocuments } from './documents.ts';
import { draining } from './draining.ts';
import { flashBytes } from './flash-bytes.ts';
import { growth } from './growth.ts';
import { Load } from './load.ts';
import { isInMemory, type Machine, machineAt, machineText } from './machine.ts';
import { manyTills } from './many-tills.ts';
import { mounting } from './mounting.ts';
import { oneTill } from './one-till.ts';
import { outage } from './outage.ts';
import { readRequests } from './requests.ts';
import { ship } from './shipped.ts';
import { type Sizes, sizes } from './sizes.ts';
import { slowToken } from './slow-token.ts';
import type { StageTime } from './stage-times.ts';
import { starting } from './starting.ts';
import { markdownTable, stagesTable, textTable } from './table.ts';
import { World, type WorldOptions } from './world.ts';

/** B8 is measured with B7. */
export const benches: readonly Bench[] = [oneTill, manyTills, slowToken, flashBytes, mounting, draining, growth, starting, outage];

export interface RunOptions {
  readonly sizes: Sizes;
  /** Ids; empty: all. */
  readonly only: readonly string[];
  /** On a real disk. */
  readonly folder: string;
  readonly module: string | null;
  /** Online Retail file, plain or gzip; null: the bundled day. */
  readonly data: string | null;
  say(text: string): void;
}

export interface Results {
  readonly when: string;
  readonly sizes: Sizes['name'];
  readonly machine: Machine;
  /** PKCS#11 module, or the embedded soft token. */
  readonly token: string;
  readonly rows: readonly Row[];
  readonly stages: readonly StageTime[];
  /** Benchmarks that could not be run, and why. */
  readonly failures: readonly { readonly bench: string; readonly why: string }[];
}

/** Bytes of an entry in a large batch, with room for other data than the bundled. */
const bytesPerEntry = 1_200;
const entriesPerBatch = 512;
const mib = 1024 * 1024;

function flashMibFor(entries: number, { leastFlashMib }: Sizes): number {
  return leastFlashMib + Math.ceil((entries * bytesPerEntry) / mib);
}

export async function measure(options: RunOptions): Promise<Results> {
  const { folder, module, say } = options;
  const wanted = chosen(options.only);
  // What is meant for the service of this machine is not meant for those that are measured; every process of a run is started from here.
  for (const name of Object.keys(process.env)) if (name.startsWith('UKEYD_')) delete process.env[name];
  const machine = machineAt(folder);
  // Every process of a run starts from the same compiled code; B9 measures without it too.
  process.env['NODE_COMPILE_CACHE'] ??= path.join(folder, 'compile-cache');
  const shipped = await ship(folder);
  const requests = readRequests(options.data);
  const load = await Load.start(requests);
  const worlds = new Map<string, World>();
  const kept = async (name: string, open: () => Promise<World>): Promise<World> => {
    const world = worlds.get(name) ?? (await open());
    worlds.set(name, world);
    return world;
  };
  const loads = options.sizes.rounds * options.sizes.manyTillsCount + options.sizes.backlog;
  const defaults: WorldOptions = {
    module,
    mirror: 'sync',
    flashMib: flashMibFor(loads, options.sizes),
    probeSeconds: 15,
    program: 'shipped',
    shipped,
  };
  const stages: StageTime[] = [];
  const context: Context = {
    sizes: options.sizes,
    machine,
    folder,
    module,
    requests,
    load,
    say,
    note: (times) => stages.push(...times),
    world: (name, more = {}) => kept(name, () => World.open(path.join(folder, name), { ...defaults, ...more })),
    ledger: (entries) => {
      const name = `ledger-${entries}`;
      // One size for all: a FLASH does not grow with its ledger, and an opening looks at each segment, used or not.
      const sized = { ...defaults, flashMib: flashMibFor(Math.max(...options.sizes.ledgers), options.sizes) };
      return kept(name, () => filled(context, path.join(folder, name), sized, entries));
    },
  };
  const rows: Row[] = [];
  const failures: Results['failures'][number][] = [];
  try {
    for (const [at, bench] of wanted.entries()) {
      await wanted[at + 1]?.ahead?.(context).catch(() => undefined); // its own run says why
      say(`${bench.id} ${bench.title} ...`);
      const startMs = performance.now();
      try {
        const measured = await bench.run(context);
        rows.push(...measured);
        say(`${textTable(measured)}\n(${((performance.now() - startMs) / 1_000).toFixed(0)} s)\n`);
      } catch (thrown) {
        const why = thrown instanceof Error ? thrown.message : String(thrown);
        failures.push({ bench: bench.id, why });
        say(`${bench.id} could not be measured: ${why}\n`);
      }
    }
  } finally {
    load.close();
    for (const world of worlds.values()) await world.close();
  }
  return {
    when: new Date().toISOString(),
    sizes: options.sizes.name,
    machine,
    token: module ?? 'embedded soft token',
    rows,
    stages,
    failures,
  };
}

async function filled(context: Context, folder: string, options: WorldOptions, entries: number): Promise<World> {
  context.say(`  making a ledger of ${entries.toLocaleString('en')} entries ...`);
  const world = await World.open(folder, options);
  await world.stop();
  const already = 2; // charter and template
  await fill(world, context.requests.typical, { entries: entries - already, perBatch: entriesPerBatch, prefix: 'fill-' });
  return world;
}

function chosen(only: readonly string[]): readonly Bench[] {
  const wanted = new Set(only.map((id) => (id === 'B8' ? 'B7' : id)));
  const unknown = [...wanted].filter((id) => !benches.some((bench) => bench.id === id));
  if (unknown.length > 0) throw new Error(`there is no ${unknown.join(', ')}: B1 to B10`);
  return benches.filter(({ id }) => wanted.size === 0 || wanted.has(id));
}

const usage = `Usage: npm run bench -- [--quick] [--only B1,B4] [--dir FOLDER] [--module FILE|none] [--data FILE] [--docs]
  --quick   some two minutes; figures are rough
  --only    these benchmarks
  --dir     where images and databases are made: on a real disk (default: the temporary folder, else .state)
  --module  PKCS#11 module (default: SoftHSM2 where it is installed); none: the embedded soft token
  --data    Online Retail file, .csv or .csv.gz (docs/retail-data.md; default: the bundled day)
  --docs    writes the table and the charts into docs/ (full run only)
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      ...{ quick: { type: 'boolean' }, tiny: { type: 'boolean' }, docs: { type: 'boolean' }, help: { type: 'boolean' } },
      ...{ only: { type: 'string' }, dir: { type: 'string' }, module: { type: 'string' }, data: { type: 'string' } },
    },
    strict: true,
  });
  if (values.help === true) {
    process.stdout.write(usage);
    return;
  }
  const size = values.tiny === true ? sizes.tiny : values.quick === true ? sizes.quick : sizes.full;
  if (values.docs === true && (size !== sizes.full || values.only !== undefined))
    throw new Error('--docs belongs to a full run of everything');
  const root = new URL('../../', import.meta.url).pathname;
  const parent = values.dir ?? (isInMemory(os.tmpdir()) ? path.join(root, '.state') : os.tmpdir());
  const folder = mkdtempSync(path.join(parent, 'ukeyd-bench-'));
  const module = values.module === 'none' ? null : (values.module ?? softHsmModule());
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      rmSync(folder, { recursive: true, force: true });
      process.exit(130);
    });
  try {
    process.stdout.write(`${machineText(machineAt(folder))}\n`);
    process.stdout.write(
      `token: ${module ?? 'embedded soft token (SoftHSM2 is not installed)'}; images in ${folder}; mirror sync; ${size.name} run\n\n`,
    );
    if (isInMemory(folder)) process.stdout.write('The folder is in memory: a sync costs nothing there, and the figures say nothing.\n\n');
    const results = await measure({
      sizes: size,
      only: values.only?.split(',') ?? [],
      folder,
      module,
      data: values.data ?? null,
      say: (text) => void process.stdout.write(`${text}\n`),
    });
    if (size !== sizes.tiny) writeFileSync(path.join(root, 'bench-results.json'), `${JSON.stringify(results, null, 2)}\n`);
    process.stdout.write(`\n${markdownTable(results.rows)}\n\n${stagesTable(results.stages)}\n`);
    if (values.docs === true) writeDocuments(results);
    process.exitCode = results.failures.length > 0 ? 1 : 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) await main();
