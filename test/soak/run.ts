// Owns: `npm run soak`: a bounded run of a whole shop under trouble, and the table that it ends with. --minutes (10), --seed.
// Exit codes: 0 all held, 1 something did not, 2 the command line was not understood.
import { parseArgs } from 'node:util';
import { seedOf } from '#test/support/seed.ts';
import { type SoakReport, soak } from './soak.ts';
import { soakTable, violationsOf } from './table.ts';

const usage = `npm run soak -- [--minutes NUMBER] [--seed NUMBER]

  --minutes NUMBER  how long tills sell (10)
  --seed NUMBER     the same troubles in the same order again; without it one is drawn and printed
`;
const quietMs = 3_000;

function order(argv: readonly string[]): { readonly minutes: number; readonly seed: number } | null {
  try {
    const { values } = parseArgs({ args: [...argv], options: { minutes: { type: 'string' }, seed: { type: 'string' } } });
    const minutes = Number(values.minutes ?? 10);
    const seed = values.seed === undefined ? seedOf() : Number(values.seed);
    return minutes > 0 && Number.isSafeInteger(seed) ? { minutes, seed } : null;
  } catch {
    return null; // parseArgs says only that an option is unknown; the usage says which there are
  }
}

async function main(argv: readonly string[]): Promise<number> {
  const given = order(argv);
  if (given === null) {
    console.error(usage);
    return 2;
  }
  console.error(`soak seed=${given.seed} minutes=${given.minutes}`);
  const awake = setInterval(() => undefined, 60_000); // nothing else may keep this process
  let report: SoakReport;
  try {
    report = await soak({ ...given, quietMs, note: (text) => console.error(`  ${text}`) });
  } finally {
    clearInterval(awake);
  }
  console.log(soakTable(report));
  const violations = violationsOf(report);
  for (const violation of violations) console.error(`violation: ${violation}`);
  return violations.length === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
