// Shows: `ukeyctl export` and `verify --export` as a user runs them: what is written, how it goes on after whatever interrupts it, and how little memory it takes.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Given } from '#ctl/command.ts';
import { ExportCheck } from '#ctl/export/export-check.ts';
import { jsonLines } from '#ctl/export/spelling.ts';
import { exportCommand } from '#ctl/export.ts';
import { openPieces } from '#ctl/input.ts';
import type { Screen } from '#ctl/screen.ts';
import { runVerifyOwnExport } from '#ctl/verify-own-export.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { ctl, ctlEntry, errorOf, jsonOf, type Run, runProgram } from '#test/support/ctl.ts';
import { serving } from '#test/support/exported.ts';
import { FakeService, HangUp } from '#test/support/fake-service.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';

let directory: string;
let ledger: BuiltLedger;
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ukey-export-'));
  ledger = await BuiltLedger.begin();
  for (let at = 0; at < 30; at++) ledger.add(Array.from({ length: 20 }, () => ({ ...ledger.draft(), fillerBytes: 1_500 })));
  ledger.add([ledger.draft({ kind: 'credit-note', corrects: { number: 'A-00000001' } }), ledger.acknowledgement(20)]);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let files = 0;
const fresh = (): string => join(directory, `export-${++files}`);
const exporting = (service: FakeService, file: string, ...more: string[]): Promise<Run> =>
  ctl(['export', '--json', '--output', file, '--socket', service.socketPath, ...more]);
const verify = (file: string): Promise<Run> => ctl(['verify', '--json', '--export', file, '--authority', ledger.authority.fingerprint]);

/** The same in this process: quicker where only what is written matters. */
async function exportHere(service: FakeService, file: string, options: Readonly<Record<string, string | boolean>> = {}): Promise<void> {
  await exportCommand.run(new Given([], { output: file, socket: service.socketPath, ...options }), quiet);
}

/** What is said of an export. */
async function verifyHere(file: string): Promise<Readonly<Record<string, unknown>>> {
  const answers: object[] = [];
  const screen: Screen = { ...quiet, answer: (value) => void answers.push(value) };
  await runVerifyOwnExport(file, new Given([], { authority: ledger.authority.fingerprint }), screen);
  return { ...answers[0] };
}

const quiet: Screen = {
  json: false,
  colours: false,
  widthColumns: null,
  answer: () => undefined,
  exact: () => undefined,
  note: () => undefined,
};

/** An export that nothing interrupts. */
async function wholeOf(form: string): Promise<Buffer> {
  await using service = await FakeService.start({ script: serving(ledger) });
  const file = fresh();
  await exportHere(service, file, { format: form });
  return readFileSync(file);
}

describe.each(['jsonl', 'tar'])('an export as %s', (form) => {
  it('is whole, and verified without a service', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    const file = fresh();
    const run = await exporting(service, file, '--format', form);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toMatchObject({ entries: 604, batches: 32, byKind: { invoice: 600, 'credit-note': 1 } });
    expect(existsSync(`${file}.part`)).toBe(false);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const verified = await verify(file);
    expect(verified).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(verified)).toMatchObject({ holds: true, complete: true, trusted: true, entries: 604, findingsCount: 0 });
  });

  it('that was cut off anywhere ends with the same bytes', async () => {
    const seed = seedOf();
    const random = seededRandom(seed);
    const whole = await wholeOf(form);
    await using service = await FakeService.start({ script: serving(ledger) });
    const cuts = [0, 700, whole.length - 1, whole.length, ...Array.from({ length: 3 }, () => Math.floor(random() * whole.length))];
    for (const cut of cuts) {
      const file = fresh();
      writeFileSync(`${file}.part`, whole.subarray(0, cut));
      await exportHere(service, file, { format: form, resume: true });
      expect(readFileSync(file).equals(whole), `seed ${seed}, cut at ${cut}`).toBe(true);
    }
  });

  it('whose part was spoilt by a power cut is written again from the last batch that holds', async () => {
    const whole = await wholeOf(form);
    await using service = await FakeService.start({ script: serving(ledger) });
    const spoilt = Buffer.from(whole.subarray(0, Math.floor(whole.length / 2)));
    spoilt.fill(0, spoilt.length - 5_000);
    const file = fresh();
    writeFileSync(`${file}.part`, spoilt);
    await exportHere(service, file, { format: form, resume: true });
    expect(readFileSync(file).equals(whole)).toBe(true);
  });
});

describe('an export that is interrupted', () => {
  it('goes on when the connection is lost and the service is locked for a while', async () => {
    const trouble = new Map<number, Error>([
      [3, new HangUp()],
      [4, new HangUp()],
      [5, new UkeyError('locked', 'the token is locked')],
      [6, new UkeyError('busy', 'not now', { retryAfterMs: 10 })],
    ]);
    const before = (page: number): void => {
      const error = trouble.get(page);
      if (error !== undefined) throw error;
    };
    await using service = await FakeService.start({ script: serving(ledger, 1, before) });
    const file = fresh();
    const run = await exporting(service, file);
    expect(run.status).toBe(0);
    expect(run.stderr).toContain('locked');
    expect(readFileSync(file).equals(await wholeOf('jsonl'))).toBe(true);
  });

  it('by Ctrl-C says how to go on, ends as by the signal, and goes on', async () => {
    const file = fresh();
    const ending = Promise.withResolvers<[NodeJS.Signals | null, string]>();
    let stop: () => void = () => undefined;
    await using service = await FakeService.start({ script: serving(ledger, 1, (page) => page === 6 && stop()) });
    const child = spawn(process.execPath, [ctlEntry, 'export', '--output', file, '--socket', service.socketPath], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
    child.on('close', (_, signal) => ending.resolve([signal, said]));
    stop = () => {
      child.kill('SIGINT');
      throw new UkeyError('busy', 'not now', { retryAfterMs: 5_000 });
    };
    const [signal, words] = await ending.promise;
    expect(signal).toBe('SIGINT');
    expect(words).toContain('--resume');
    expect(existsSync(file)).toBe(false);
    expect((await exporting(service, file, '--resume')).status).toBe(0);
    expect(readFileSync(file).equals(await wholeOf('jsonl'))).toBe(true);
  });

  it('by a full disk says so, and goes on when there is room', async () => {
    const file = fresh();
    await using service = await FakeService.start({ script: serving(ledger) });
    const command = `ulimit -f 400; exec '${process.execPath}' '${ctlEntry}' export --json --output '${file}' --socket '${service.socketPath}'`;
    const full = await runProgram('/bin/bash', ['--norc', '-c', command]);
    expect(full.status).toBe(2);
    expect(errorOf(full)).toMatchObject({ field: '--output', action: expect.stringContaining('--resume') as string });
    expect(existsSync(`${file}.part`)).toBe(true);
    expect((await exporting(service, file, '--resume')).status).toBe(0);
    expect(readFileSync(file).equals(await wholeOf('jsonl'))).toBe(true);
  });

  it('is neither overwritten nor mixed with another', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    const file = fresh();
    writeFileSync(`${file}.part`, (await wholeOf('jsonl')).subarray(0, 20_000));
    const anew = await exporting(service, file);
    expect(anew.status).toBe(2);
    expect(errorOf(anew)['action']).toContain('--resume');
    for (const other of [
      ['--kind', 'invoice'],
      ['--from', '2'],
      ['--format', 'tar'],
    ]) {
      const run = await exporting(service, file, '--resume', ...other);
      expect(run.status, other.join(' ')).toBe(2);
    }
    const stranger = await BuiltLedger.begin();
    await using elsewhere = await FakeService.start({ script: serving(stranger) });
    expect((await exporting(elsewhere, file, '--resume')).status).toBe(2);
    expect((await exporting(service, file, '--resume')).status).toBe(0);
    const again = await exporting(service, file);
    expect(again.status).toBe(2);
    expect(again.stderr).toContain('exists already');
    writeFileSync(`${file}-notes.part`, 'my notes');
    expect((await exporting(service, `${file}-notes`, '--resume')).status).toBe(2);
    expect(readFileSync(`${file}-notes.part`, 'utf8')).toBe('my notes');
  });
});

describe('a range', () => {
  const rangeOf = async (service: FakeService, options: Readonly<Record<string, string>>): Promise<unknown> => {
    const file = fresh();
    await exportHere(service, file, options);
    return (await verifyHere(file))['range'];
  };

  it('is asked for by sequences, within batches and at their edges', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    expect(await rangeOf(service, { from: '3', to: '22' })).toEqual({ fromBatch: 2, toBatch: 2, fromSequence: 3, toSequence: 22 });
    expect(await rangeOf(service, { from: '22', to: '23' })).toEqual({ fromBatch: 2, toBatch: 3, fromSequence: 22, toSequence: 23 });
    expect(await rangeOf(service, { from: '600' })).toMatchObject({ fromSequence: 600, toSequence: 604 });
    expect(await rangeOf(service, { to: '9999' })).toMatchObject({ fromSequence: 1, toSequence: 604 });
    expect(await rangeOf(service, { from: '605' })).toBeNull();
  });

  it('is asked for by time: from this one on, and before that one', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    const lines = (await wholeOf('jsonl')).toString('utf8').split('\n');
    const issuedAt = new Map(
      lines.flatMap((line) => {
        const entry = line === '' ? {} : (JSON.parse(line) as { sequence?: number; issuedAt?: string });
        return entry.sequence === undefined ? [] : [[entry.sequence, entry.issuedAt ?? '']];
      }),
    );
    for (const [from, until] of [
      [3, 23],
      [22, 43],
    ] as const) {
      const times = { since: issuedAt.get(from) ?? '', until: issuedAt.get(until) ?? '' };
      expect(await rangeOf(service, times)).toMatchObject({ fromSequence: from, toSequence: until - 1 });
    }
    expect(await rangeOf(service, { since: '2031-01-01' })).toBeNull();
    expect(await rangeOf(service, { until: '2029-01-01' })).toBeNull();
    expect(await rangeOf(service, { since: '2029-01-01', until: '2031-01-01' })).toMatchObject({ fromSequence: 1, toSequence: 604 });
  });

  it('whose beginning was released says so; by sequence it is refused', async () => {
    await using service = await FakeService.start({ script: serving(ledger, 5) });
    const file = fresh();
    const run = await exporting(service, file);
    expect(run.status).toBe(0);
    expect(run.stderr).toContain('sequence 63');
    expect(jsonOf(await verify(file))).toMatchObject({ holds: true, range: { fromBatch: 5, fromSequence: 63 } });
    const early = await exporting(service, fresh(), '--from', '10');
    expect(early.status).toBe(3);
    expect(errorOf(early)).toMatchObject({ code: 'not-found' });
  });

  it('of some kinds is a selection, and says so', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    const file = fresh();
    expect((await exporting(service, file, '--kind', 'credit-note,acknowledgement')).status).toBe(0);
    expect(jsonOf(await verify(file))).toMatchObject({
      holds: true,
      complete: false,
      selection: ['credit-note', 'acknowledgement'],
      entries: 2,
      batches: 32,
    });
    const words = await ctl(['verify', '--export', file]);
    expect(words.stdout).toContain('selection');
  });

  it('that makes no sense is refused before anything is written', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    for (const args of [
      ['--from', '0'],
      ['--from', '1', '--since', '2030-01-01'],
      ['--to', '1', '--until', '2030-01-01'],
      ['--since', 'soon'],
      ['--since', '2026-11-31'],
      ['--until', '2026-02-29T08:00:00Z'],
      ['--kind', 'cheque'],
      ['--format', 'zip'],
    ]) {
      const file = fresh();
      const run = await exporting(service, file, ...args);
      expect(run.status, args.join(' ')).toBe(2);
      expect(existsSync(`${file}.part`), args.join(' ')).toBe(false);
    }
    expect((await ctl(['export', '--json', '--output', '-', '--socket', service.socketPath])).status).toBe(2);
  });
});

describe('stdout', () => {
  it('gets the same bytes, and verify reads them from stdin', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    const run = await ctl(['export', '--output', '-', '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(Buffer.from(run.stdout, 'utf8').equals(await wholeOf('jsonl'))).toBe(true);
    expect(run.stderr).toContain('604 entries');
    const verified = await ctl(['verify', '--json', '--export', '-'], { stdin: run.stdout });
    expect(jsonOf(verified)).toMatchObject({ holds: true, entries: 604 });
  });

  it('that is not read any more ends it in a word, and as no whole export', async () => {
    await using service = await FakeService.start({ script: serving(ledger) });
    const command = `set -o pipefail; '${process.execPath}' '${ctlEntry}' export --output - --socket '${service.socketPath}' | head -n 1`;
    const run = await runProgram('/bin/bash', ['--norc', '-c', command]);
    expect(run.stdout).toContain('ukey-export/1');
    expect(run.status).toBe(2);
    expect(run.stderr).toMatch(/^invalid-request: [^\n]+\n$/);
  });
});

describe('memory', () => {
  const perBatch = 30;
  const [early, all] = [10, 75];

  it('does not grow with the ledger, neither of who writes nor of who verifies', { timeout: 60_000 }, async () => {
    const long = await BuiltLedger.begin();
    for (let at = 1; at < all; at++) long.add(Array.from({ length: perBatch }, () => ({ ...long.draft(), fillerBytes: 6_000 })));
    const held: number[] = [];
    const before = (page: number): void => void (page % 2 === 0 && held.push(heldBytes()));
    await using service = await FakeService.start({ script: serving(long, 1, before) });
    const file = fresh();
    await exportCommand.run(new Given([], { output: file, socket: service.socketPath }), quiet);
    expect(held.length).toBeGreaterThan(24);
    // The least of several: what is on its way counts as held for a moment.
    expect(Math.min(...held.slice(-8)) - Math.min(...held.slice(1, 9))).toBeLessThan(4 * mib);
    expect(await grownWhileVerified(file, () => undefined)).toBeLessThan(4 * mib);
    const hoard: unknown[] = [];
    expect(await grownWhileVerified(file, (record) => hoard.push(record))).toBeGreaterThan(10 * mib);
    expect(hoard.length).toBeGreaterThan(all * perBatch);
  });

  /** From batch `early` to the end. */
  async function grownWhileVerified(file: string, also: (record: unknown) => void): Promise<number> {
    using pieces = openPieces(file, '--export');
    let check: ExportCheck | null = null;
    let [from, to] = [0, 0];
    for await (const { record, bytes } of jsonLines.read(pieces)) {
      also(record);
      if (check !== null) check.add(record, bytes);
      else if (record.kind === 'origin') check = new ExportCheck(record.origin, bytes, { kind: 'none' });
      if (record.kind === 'seal' && record.seal.batch === early) from = await leastHeldBytes();
      if (record.kind === 'end') to = await leastHeldBytes();
    }
    expect(check?.end?.batches).toBe(all);
    return to - from;
  }
});

const mib = 1024 * 1024;
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What cannot be collected. */
function heldBytes(): number {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Memory outside of the heap is counted until some turns after it was collected. */
async function leastHeldBytes(): Promise<number> {
  let least = heldBytes();
  for (let turn = 0; turn < 3; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    least = Math.min(least, heldBytes());
  }
  return least;
}
