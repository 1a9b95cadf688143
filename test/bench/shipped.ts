// Owns: the service as it is shipped, made of this tree by the code that makes the packages: what is measured is what a shop runs.
// Invariants: it stands in the folder of the run and is removed with it; Node and the packages are those of the clone.
import { mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { stagePrograms } from '../../installers/staging.ts';

const root = path.resolve(import.meta.dirname, '../..');

export interface Shipped {
  readonly service: string;
  readonly ctl: string;
}

export async function ship(folder: string): Promise<Shipped> {
  const home = path.join(folder, 'home');
  rmSync(home, { recursive: true, force: true }); // of a run before
  mkdirSync(home, { recursive: true });
  symlinkSync(path.join(root, 'node_modules'), path.join(home, 'node_modules'), 'junction');
  const { version, description } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as Record<
    'version' | 'description',
    string
  >;
  await stagePrograms(home, { version, description });
  return { service: path.join(home, 'daemon/main.js'), ctl: path.join(home, 'daemon/ctl.js') };
}
