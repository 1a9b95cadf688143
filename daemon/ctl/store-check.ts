// Owns: `ukeyctl store check` and `store scrub`: everything that the token's store keeps, read on FLASH and mirror a segment at a time while the service goes
// on; scrub also puts right what one of them, or the ticket server, has whole.
// Where damage keeps the ledger from opening, scrub first asks for the PIN and has it mended (store.mend).
// Invariants: the service does the work and the verifying; damage that stays is an exit status of its own; who interrupts it loses nothing.
import type { Command, Given } from '#ctl/command.ts';
import { adminOptions, type Service, withAdmin } from '#ctl/connection.ts';
import { openProgress } from '#ctl/progress.ts';
import { readPin } from '#ctl/prompt.ts';
import { counted, facts, type Screen } from '#ctl/screen.ts';
import { withTries } from '#ctl/session.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';

/** Opening a ledger that is read anew, and its batches from a slow line. */
const mendWaitMs = 1_800_000;
/** One segment of a slow stick, and what the ticket server has of it. */
const sliceWaitMs = 180_000;

export const checkCommand: Command = {
  kind: 'command',
  name: 'check',
  summary: 'read everything that FLASH and mirror keep, and tell what is damaged; nothing is written',
  options: adminOptions,
  examples: ['store check', 'store check --json'],
  run: (given, screen) => walk(given, screen, false),
};

export const scrub: Command = {
  kind: 'command',
  name: 'scrub',
  summary: 'read everything that FLASH and mirror keep, and put right what one of them or the ticket server has whole',
  options: [
    ...adminOptions,
    {
      flags: '--pin-file <file>',
      description: 'where the service is halted for damage: read the PIN from this file; - is stdin (default: a prompt)',
    },
    { flags: '--use-last-try', description: 'spend the last try too; a wrong PIN then locks the token' },
  ],
  examples: ['store scrub', 'store scrub --pin-file /etc/ukeyd/pin', 'store scrub --json'],
  run: (given, screen) => walk(given, screen, true),
};

/** What all segments together came to. */
export interface Findings {
  readonly segments: number;
  readonly batches: number;
  /** Headers, batches and carried strings that were whole on the other side only. */
  readonly flashDamaged: number;
  readonly mirrorDamaged: number;
  readonly healed: boolean;
  /** Put back from the ticket server. */
  readonly mended: readonly number[];
  /** Whole nowhere. */
  readonly missing: readonly number[];
}

async function walk(given: Given, screen: Screen, heal: boolean): Promise<void> {
  const found = await withAdmin(given, (service) => readAll(service, heal)).catch(async (thrown: unknown) => {
    if (!heal || asUkeyError(thrown).code !== 'halted') throw thrown;
    const mended = await mendHalted(given, screen);
    const read = await withAdmin(given, (service) => readAll(service, heal));
    return { ...read, mended: [...mended, ...read.mended] };
  });
  const isDamaged = found.missing.length > 0 || (!found.healed && found.flashDamaged + found.mirrorDamaged > 0);
  screen.answer(found, findingsText(found, heal), isDamaged ? 'unverified' : 'done');
}

/** The ledger is open afterwards. Answers the batches that were put back. Throws what else the service is halted for, before a PIN is asked for. */
async function mendHalted(given: Given, screen: Screen): Promise<readonly number[]> {
  await withAdmin(given, (service) => service.call('store.mend', {})).catch((thrown: unknown) => {
    const error = asUkeyError(thrown);
    if (error.code !== 'locked') throw thrown;
    screen.note(`${error.message}.`);
  });
  const pin = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
  const useLastTry = given.flag('useLastTry') ? { useLastTry: true } : {};
  return await withAdmin(given, async (service) => {
    try {
      return (await service.call('store.mend', { pin: pin.toString('utf8'), ...useLastTry }, mendWaitMs)).mended;
    } catch (thrown) {
      throw await withTries(service, asUkeyError(thrown));
    } finally {
      pin.fill(0);
    }
  });
}

async function readAll(service: Service, heal: boolean): Promise<Findings> {
  using progress = openProgress(heal ? 'Scrubbing' : 'Checking', null);
  const slices: Result<'store.check'>[] = [];
  for (let fromRun: number | null = 1; fromRun !== null; ) {
    const slice: Result<'store.check'> = await service.call('store.check', { fromRun, heal }, sliceWaitMs);
    slices.push(slice);
    progress.show(slice.done, slice.segments);
    fromRun = slice.nextRun;
  }
  const sum = (of: (slice: Result<'store.check'>) => number): number => slices.reduce((total, slice) => total + of(slice), 0);
  return {
    segments: slices.length,
    batches: sum(({ batches }) => batches),
    flashDamaged: sum(({ flashDamaged }) => flashDamaged.length),
    mirrorDamaged: sum(({ mirrorDamaged }) => mirrorDamaged.length),
    healed: slices.every(({ healed }) => healed),
    mended: slices.flatMap(({ mended }) => mended),
    missing: slices.flatMap(({ missing }) => missing),
  };
}

/** For people. Pure. */
export function findingsText(found: Findings, heal: boolean): string {
  const { flashDamaged, mirrorDamaged, healed, mended, missing } = found;
  const fate = healed ? 'put right' : heal ? 'not put right: there is no mirror in use' : 'ukeyctl store scrub puts it right';
  const place = (count: number): string | null => (count === 0 ? null : `${counted(count, 'place')} damaged, ${fate}`);
  const isWhole = flashDamaged + mirrorDamaged + mended.length + missing.length === 0;
  return facts([
    ['Read', `${counted(found.batches, 'batch', 'batches')} in ${counted(found.segments, 'segment')}`],
    ['FLASH', place(flashDamaged)],
    ['Mirror', place(mirrorDamaged)],
    ['Put back', mended.length === 0 ? null : `${names(mended)}, from the ticket server`],
    [
      'Missing',
      missing.length === 0 ? null : `${names(missing)}: whole on neither FLASH nor mirror${heal ? '' : '; try ukeyctl store scrub'}`,
    ],
    ['To do', missing.length > 0 && heal ? 'ask the ticket server for what stood in them; the tills may go on (docs/trouble.md)' : null],
    ['Result', isWhole ? 'all is whole' : null],
  ]);
}

const namesMax = 12;

/** `batches 3, 9-12`. */
export function names(batches: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const batch of batches) {
    const last = runs.at(-1);
    if (last !== undefined && batch === last[1] + 1) last[1] = batch;
    else runs.push([batch, batch]);
  }
  const shown = runs.slice(0, namesMax).map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`));
  const more = runs.length > namesMax ? ', and more' : '';
  return `${batches.length === 1 ? 'batch' : 'batches'} ${shown.join(', ')}${more}`;
}
