// Owns: `npm run test:packages`: builds the packages twice (as two revisions), boots a Debian of its own and lives through the chapters in it.
// Invariants: one line per chapter, `NAME key=value ...`; violations go to the standard error stream and make the exit code 1; where no container can run
// it says so, which fails only where `CI` is set. The container is thrown away; its base stays in dist/ for the next run.
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { tool } from '../../installers/tool.ts';
import { Branch } from './branch.ts';
import { chapters } from './chapters.ts';
import { Container, makeBase, whyNoContainer } from './container.ts';

const root = path.resolve(import.meta.dirname, '../..');
const work = path.join(root, 'dist/test');

function build(revision: number): void {
  tool(process.execPath, ['installers/packages.ts', '--out', work, '--revision', String(revision)], { cwd: root });
}

async function live(container: Container): Promise<boolean> {
  const branch = new Branch(container);
  let isHeld = true;
  for (const { name, run } of chapters) {
    const violations: string[] = [];
    const startedMs = performance.now();
    const line = await run(branch, (holds, what) => {
      if (!holds) violations.push(what);
    });
    console.log(`${name} ${line} seconds=${((performance.now() - startedMs) / 1_000).toFixed(0)}`);
    for (const violation of violations) console.error(`  violation: ${violation}`);
    isHeld &&= violations.length === 0;
  }
  return isHeld;
}

async function main(): Promise<number> {
  const missing = whyNoContainer();
  if (missing !== null) {
    console.log(`packages not tested here: ${missing}`);
    return process.env['CI'] === undefined ? 0 : 1;
  }
  mkdirSync(work, { recursive: true });
  build(1);
  build(2);
  const container = await Container.boot(makeBase(path.join(root, 'dist')), work);
  try {
    return (await live(container)) ? 0 : 1;
  } catch (thrown) {
    console.error(thrown);
    return 1;
  } finally {
    await container.stop();
  }
}

process.exitCode = await main();
