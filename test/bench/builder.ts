// Owns: the harness's end of the builder and of the timed mount.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import type { InvoiceRequest } from '#ipc-schema/invoice.ts';
import type { BuildQuestion, Built } from './builder-process.ts';
import type { Mounted, MountQuestion } from './mount-process.ts';
import { askOnce } from './process.ts';
import type { World } from './world.ts';
import { pin } from './world-files.ts';

/** Fills a ledger whose service has been stopped. */
export async function fill(
  world: World,
  requests: readonly InvoiceRequest[],
  { entries, perBatch, prefix }: Pick<BuildQuestion, 'entries' | 'perBatch' | 'prefix'>,
): Promise<Built> {
  const question: BuildQuestion = { config: world.holderConfig, pin, requests, entries, perBatch, prefix };
  return await askOnce<Built>('./builder-process.ts', question, world.environment);
}

/** Opens a ledger whose service has been stopped, and closes it. */
export async function mountOnce(world: World, rebuild: boolean): Promise<Mounted> {
  const question: MountQuestion = { config: world.holderConfig, pin, indexFile: indexFileOf(world), rebuild };
  return await askOnce<Mounted>('./mount-process.ts', question, world.environment);
}

/** The service made it when it was provisioned. */
function indexFileOf(world: World): string {
  const { state } = world.files;
  const name = readdirSync(state).find((each) => /^index-[0-9a-f]+\.sqlite$/.test(each));
  if (name === undefined) throw new Error(`there is no index in ${state}`);
  return path.join(state, name);
}
