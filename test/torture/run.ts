// Owns: `npm run torture`: runs the parts one after the other and prints one line for each, `NAME seed=N key=value ...`.
// Invariants: the seed is printed and `--seed` repeats it; violations go to the standard error stream and make the exit code 1;
// a part that cannot run here prints `NAME not tested here: why`, which fails only where `CI` is set; a part that throws is a violation.
// Exit codes: 0 all held, 1 a violation, 2 the command line was not understood. What the lines mean: docs/torture.md.
import { parseArgs } from 'node:util';
import { seedOf } from '#test/support/seed.ts';
import type { TortureOptions, TorturePart } from './part.ts';

/** In the order in which they run. Loaded when they are asked for, so that one part alone needs only what it imports. */
const parts: Readonly<Record<string, () => Promise<TorturePart>>> = {
  power: async () => (await import('./power.ts')).power,
  rot: async () => (await import('./rot.ts')).rot,
  keys: async () => (await import('./keys.ts')).keys,
  rollback: async () => (await import('./rollback.ts')).rollback,
  lies: async () => (await import('./lies.ts')).lies,
  failpoints: async () => (await import('./failpoints.ts')).failpoints,
  honesty: async () => (await import('./honesty.ts')).honesty,
  'power-cut': async () => (await import('./os-power.ts')).powerCut,
  'lying-device': async () => (await import('./os-power.ts')).lyingDevice,
  'crash-at-sync': async () => (await import('./os-crash.ts')).crashAtSync,
  'crash-service': async () => (await import('./os-crash.ts')).crashService,
  'store-errors': async () => (await import('./os-errors.ts')).storeErrors,
  'service-errors': async () => (await import('./os-errors.ts')).serviceErrors,
  'fuzz-decoders': async () => (await import('./fuzz-decoders.ts')).fuzzDecodersPart,
  'fuzz-socket': async () => (await import('./fuzz-socket.ts')).fuzzSocketPart,
  'door-load': async () => (await import('./door-load.ts')).doorLoad,
  'token-codes': async () => (await import('./token-faults.ts')).tokenCodes,
  'token-hang': async () => (await import('./token-faults.ts')).tokenHang,
  'token-crash': async () => (await import('./token-faults.ts')).tokenCrash,
  'token-wrong': async () => (await import('./token-faults.ts')).tokenWrong,
};

const awakeMs = 60_000;

interface Order {
  readonly names: readonly string[];
  readonly seed: number;
  readonly scale: number;
}

const usage = `npm run torture -- [--only NAME]... [--seed NUMBER] [--scale NUMBER]

  --only NAME     runs this part, and may be given again: ${Object.keys(parts).join(', ')}
  --seed NUMBER   repeats a run; without it one is drawn and printed
  --scale NUMBER  1 is the whole run, 0.01 a look of seconds
`;

function parseOrder(argv: readonly string[]): Order | null {
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: { only: { type: 'string', multiple: true }, seed: { type: 'string' }, scale: { type: 'string' } },
    });
    const names = values.only ?? Object.keys(parts);
    const seed = values.seed === undefined ? seedOf() : Number(values.seed);
    const scale = Number(values.scale ?? 1);
    const isKnown = names.every((name) => Object.hasOwn(parts, name));
    return isKnown && Number.isSafeInteger(seed) && scale > 0 ? { names, seed, scale } : null;
  } catch {
    return null; // parseArgs says only that an option is unknown; the usage says which there are
  }
}

/** Whether it held. */
async function runPart(name: string, load: () => Promise<TorturePart>, options: TortureOptions): Promise<boolean> {
  const startedMs = performance.now();
  const seconds = (): string => ((performance.now() - startedMs) / 1000).toFixed(0);
  try {
    const { line, violations, missing } = await (await load()).run(options);
    if (missing !== undefined) {
      console.log(`${name} not tested here: ${missing}`);
      return process.env['CI'] === undefined;
    }
    console.log(`${name} seed=${options.seed} ${line} seconds=${seconds()}`);
    for (const violation of violations) console.error(`  violation: ${violation}`);
    return violations.length === 0;
  } catch (thrown) {
    console.log(`${name} seed=${options.seed} broke off seconds=${seconds()}`);
    console.error(thrown);
    return false;
  }
}

async function main(argv: readonly string[]): Promise<number> {
  const order = parseOrder(argv);
  if (order === null) {
    console.error(usage);
    return 2;
  }
  let held = true;
  // The timers of the service let a process end; a part may wait for nothing else.
  const awake = setInterval(() => undefined, awakeMs);
  for (const name of order.names) {
    const load = parts[name];
    if (load === undefined) continue;
    const note = (text: string): void => console.error(`  ${name}: ${text}`);
    held = (await runPart(name, load, { seed: order.seed, scale: order.scale, note })) && held;
  }
  clearInterval(awake);
  return held ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
