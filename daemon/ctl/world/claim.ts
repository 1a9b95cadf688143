// Owns: whose a sandbox's folder is: one world at a time, and made of the same parts at every start.
// Invariants: the lock is the kernel's, so that a world that was killed leaves its folder free; another module or store than the ledger was
// begun with is refused, never mixed in.
import { accessSync, constants, mkdirSync } from 'node:fs';
import path from 'node:path';
import { usage } from '#ctl/exit-codes.ts';
import { type Lock, takeLock } from '#ground/lock.ts';
import { systemText } from '#ground/state-fault.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { findModule } from './ground-plan.ts';
import { type Layout, type Memory, refuseOther, storeOf } from './layout.ts';
import { chooseLinePort, isFree } from './line.ts';

/** `--module none`: the embedded soft token. */
const noModule = 'none';

export interface WorldParts {
  /** PKCS#11 module; `none`: the embedded soft token; left out: what the world was made with, else SoftHSM2 where installed. */
  readonly module?: string | undefined;
  /** FLASH; left out: an image among the token's parts. */
  readonly store?: string | undefined;
}

/** Throws usage when the folder cannot be made. */
export function makeOwnFolder(layout: Layout): void {
  try {
    mkdirSync(layout.dir, { recursive: true, mode: 0o700 });
    accessSync(layout.dir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw usage(`${layout.dir} cannot be used: ${systemText(cause)}`, {
      field: '--dir',
      action: 'Name a new folder, or an empty one of yours.',
      cause,
    });
  }
}

/** Throws usage when a world runs there. */
export function lockFolder(layout: Layout): Lock {
  try {
    return takeLock(layout.lock);
  } catch (thrown) {
    const error = asUkeyError(thrown);
    if (error.code !== 'busy') throw error;
    throw usage(`a sandbox runs in ${layout.dir} already`, {
      field: '--dir',
      action: `Use it, stop it (ukeyctl sandbox --dir ${layout.dir} stop), or name another folder.`,
      cause: error,
    });
  }
}

/** For a new world. */
export async function firstMemory({ module, store }: WorldParts): Promise<Memory> {
  const linePort = await chooseLinePort(Math.random);
  let serverPort = linePort;
  while (serverPort === linePort) serverPort = await chooseLinePort(Math.random);
  return {
    format: 'ukey-sandbox/1',
    module: module === noModule ? null : module === undefined ? findModule() : path.resolve(module),
    store: store === undefined ? null : path.resolve(store),
    linePort,
    serverPort,
    provisioned: false,
  };
}

/** For one that is started again. Throws usage when other parts are asked for. The server's port is nobody's business but ours: a taken one is replaced. */
export async function knownMemory(layout: Layout, memory: Memory, { module, store }: WorldParts): Promise<Memory> {
  const wanted = module === noModule ? null : module === undefined ? memory.module : path.resolve(module);
  if (wanted !== memory.module) throw refuseOther('module', '--module');
  if (store !== undefined && path.resolve(store) !== storeOf(layout, memory)) throw refuseOther('store', '--store');
  let { serverPort } = memory;
  while (serverPort === memory.linePort || !(await isFree(serverPort))) serverPort = await chooseLinePort(Math.random);
  return { ...memory, serverPort };
}
