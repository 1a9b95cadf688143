// Owns: `honesty`: whether the tests notice. Each seeded bug is put into a copy of the tree, the one test that guards it is run there and must fail.
// Invariants: the same tests pass in the copy without bugs, first of all; a test that cannot even load counts as not caught; the real tree
// is only read. Nothing is left behind.
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type SeededBug, seededBugs } from './honesty-bugs.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult, Violations } from './part.ts';

const root = path.resolve(import.meta.dirname, '../..');
const copied = ['daemon', 'ipc-schema', 'server', 'installers', 'test', 'docs', 'package.json', 'tsconfig.json', 'README.md'];
const lanes = 2;
const runWaitMs = 300_000;

interface Verdict {
  readonly passed: number;
  readonly failed: number;
}

class Copy {
  readonly folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-honesty-'));

  constructor() {
    for (const name of copied) cpSync(path.join(root, name), path.join(this.folder, name), { recursive: true });
    symlinkSync(path.join(root, 'node_modules'), path.join(this.folder, 'node_modules'));
  }

  /** False: what the bug replaces is not there exactly once. */
  change({ file, find, replace }: Pick<SeededBug, 'file' | 'find' | 'replace'>): boolean {
    const text = readFileSync(path.join(root, file), 'utf8');
    if (text.split(find).length !== 2) return false;
    writeFileSync(
      path.join(this.folder, file),
      text.replace(find, () => replace),
    );
    return true;
  }

  undo({ file }: Pick<SeededBug, 'file'>): void {
    cpSync(path.join(root, file), path.join(this.folder, file));
  }

  async test(files: readonly string[], only: string): Promise<Verdict> {
    const report = path.join(this.folder, 'report.json');
    rmSync(report, { force: true });
    const vitest = path.join(root, 'node_modules/vitest/vitest.mjs');
    const where = files.map((file) => `test/${file}`);
    const args = [vitest, 'run', '--config', 'test/vitest.config.ts', ...where, '-t', only, '--reporter=json', `--outputFile=${report}`];
    await new Promise<void>((resolve, reject) => {
      const child = spawn(process.execPath, args, { cwd: this.folder, stdio: 'ignore', timeout: runWaitMs, killSignal: 'SIGKILL' });
      child.on('error', reject);
      child.on('exit', () => resolve());
    });
    return verdictIn(report);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function verdictIn(report: string): Verdict {
  try {
    const { numPassedTests, numFailedTests } = JSON.parse(readFileSync(report, 'utf8')) as {
      readonly numPassedTests: number;
      readonly numFailedTests: number;
    };
    return { passed: numPassedTests, failed: numFailedTests };
  } catch {
    return { passed: 0, failed: 0 }; // it ended without a report: nothing was tested
  }
}

/** Each guard once without any bug: it must pass, or its failing says nothing. */
async function baseline(copy: Copy, bugs: readonly SeededBug[], violations: Violations): Promise<void> {
  const files = [...new Set(bugs.map((bug) => bug.test))];
  for (const file of files) {
    const only = bugs.filter((bug) => bug.test === file).map((bug) => bug.only);
    const { passed, failed } = await copy.test([file], [...new Set(only)].join('|'));
    if (passed === 0 || failed > 0)
      violations.add(`void: test/${file} -t "${only.join('|')}" passes ${passed} and fails ${failed} without any bug`);
  }
}

async function tryBug(copy: Copy, bug: SeededBug, violations: Violations): Promise<boolean> {
  if (!copy.change(bug)) {
    violations.add(`void: "${bug.name}": what it replaces is not once in ${bug.file}`);
    return false;
  }
  try {
    const { passed, failed } = await copy.test([bug.test], bug.only);
    if (failed > 0) return true;
    violations.add(`not caught: "${bug.name}" in ${bug.file} by test/${bug.test} -t "${bug.only}" (${passed} passed)`);
    return false;
  } finally {
    copy.undo(bug);
  }
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const violations = new Violations();
  const bugs = seededBugs.slice(0, scaled(seededBugs.length, options, 2));
  const copies = Array.from({ length: lanes }, () => new Copy());
  let caught = 0;
  try {
    const half = Math.ceil(bugs.length / lanes);
    await Promise.all(
      copies.map(async (copy, lane) => {
        const mine = bugs.slice(lane * half, (lane + 1) * half);
        await baseline(copy, mine, violations);
        for (const bug of mine) {
          const isCaught = await tryBug(copy, bug, violations);
          caught += isCaught ? 1 : 0;
          options.note(`${isCaught ? 'caught' : 'NOT caught'}: ${bug.name}`);
        }
      }),
    );
  } finally {
    for (const copy of copies) copy.remove();
  }
  return { line: `caught=${caught}/${bugs.length}`, violations: violations.told };
}

export const honesty: TorturePart = { name: 'honesty', run };
