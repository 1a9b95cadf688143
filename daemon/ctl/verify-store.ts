// Owns: `ukeyctl verify --store`: a whole store, read with its token and verified from the enrolment certificate to the head.
// The only file of ukeyctl that opens a token: through the holder, for reading only, so that the service may run meanwhile; it sees
// what was durable when it opened.
// Invariants: one try with the PIN, never the last one; nothing is written to the FLASH.
import { statSync } from 'node:fs';
import path from 'node:path';
import { checkToken, holding, readTrust } from '#ctl/certificates.ts';
import type { Given } from '#ctl/command.ts';
import { endAs, endingAs, usage } from '#ctl/exit-codes.ts';
import { LedgerCheck, type LedgerReport, type Remainder } from '#ctl/ledger-check.ts';
import { chainBroken, ledgerText } from '#ctl/ledger-text.ts';
import { openProgress } from '#ctl/progress.ts';
import { readPin } from '#ctl/prompt.ts';
import type { Screen } from '#ctl/screen.ts';
import { type Config, readConfig, type TokenConfig } from '#ground/config.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import type { CarriedDocument, Holder, Mount, StoredBatch } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';

const readMaxBytes = 4 * 1024 * 1024;

/** Where the store and its token are. */
export type StoreConfig = Pick<HolderConfig, 'module' | 'moduleParameters' | 'softTokenPath' | 'tokenLabel' | 'flashPath'>;

/** A store that is open for reading. */
export interface OpenStore {
  /** What stood in it when it was opened. */
  readonly mount: Mount;
  /** All batches that are kept, up to the head of `mount`, in order; what the service adds meanwhile is for the next time. Throws as the holder does. */
  batches(): AsyncGenerator<StoredBatch>;
  close(): Promise<void>;
}

export async function runVerifyStore(given: Given, screen: Screen): Promise<void> {
  const trust = await readTrust(given.text('authority'));
  const config = await endingAs('usage', () => configOf(given));
  const pin = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
  const store = await openStore(config, pin, (what) => screen.note(`note: ${what}`));
  try {
    const { authorityCertificate, signers } = store.mount;
    const { certificate } = signers[0];
    await holding(() => checkToken(certificate, authorityCertificate, trust));
    const ledger = new LedgerCheck({ certificate, authorityCertificate, ...(await remainderOf(store)) });
    await walk(store, ledger);
    answer(screen, config, store.mount, ledger.result());
  } finally {
    await store.close();
  }
}

/**
 * Logs in with one try and mounts. The PIN's bytes are overwritten. A PIN or token that is refused is the token's word (`refused`); a
 * store that cannot be mounted does not hold (`unverified`).
 */
export async function openStore(config: StoreConfig, pin: Uint8Array, note: (what: string) => void): Promise<OpenStore> {
  const holder = joinHolder({
    ...partsOf({ ...config, presencePaths: [], readOnly: true }),
    events: { onState: () => undefined },
    note: (what, error) => note(`${what}: ${asUkeyError(error).message}`),
  });
  try {
    const mount = await holder.login(pin, false);
    return { mount, batches: () => batchesOf(holder, mount.oldestBatch, mount.nextBatch - 1), close: () => holder.close() };
  } catch (thrown) {
    await holder.close();
    const error = asUkeyError(thrown);
    throw endAs(error.code === 'halted' ? 'unverified' : 'refused', advised(error, config));
  } finally {
    pin.fill(0);
  }
}

/** The table's advice is for a till; this is for whoever holds the store in the hand. */
function advised(error: UkeyError, config: StoreConfig): UkeyError {
  const action = adviceFor(error, config);
  if (action === null) return error;
  return new UkeyError(error.code, error.message, { field: error.field, action, cause: error });
}

function adviceFor({ code }: UkeyError, { module }: StoreConfig): string | null {
  if (code === 'halted')
    return 'What stands there is no store of this token, or is damaged: name the right one, and keep this one as it is.';
  if ((code !== 'no-token' && code !== 'token-failed') || module === null || !/softhsm/i.test(path.basename(module))) return null;
  const set = process.env['SOFTHSM2_CONF'];
  const now = set === undefined ? 'it is not set' : `it names ${set}`;
  return `SoftHSM2 finds its tokens by SOFTHSM2_CONF (${now}): set it as the service has it, then repeat.`;
}

async function* batchesOf(holder: Holder, first: number, last: number): AsyncGenerator<StoredBatch> {
  for (let next = first; next <= last; ) {
    const batches = await holder.read(next, readMaxBytes);
    if (batches.length === 0) throw new UkeyError('halted', `batch ${next} cannot be found in the store`);
    for (const batch of batches) {
      if (batch.batchIndex > last) return;
      yield batch;
      next = batch.batchIndex + 1;
    }
  }
}

/** Where the beginning was released, the check begins with what is left; charter and templates that came before are carried. */
export async function remainderOf({ mount, batches }: OpenStore): Promise<{ readonly remainder?: Remainder }> {
  const { oldestBatch, carried, signers } = mount;
  if (oldestBatch === 1) return {};
  const before = (documents: readonly CarriedDocument[]): Uint8Array[] =>
    documents.filter((document) => document.batch < oldestBatch).map((document) => document.signed);
  const { charter = null, templates = [] } = carried ?? {};
  for await (const { bytes } of batches()) {
    const successions = signers.flatMap(({ fromBatch, succession }) =>
      succession !== null && fromBatch < oldestBatch ? [succession] : [],
    );
    return {
      remainder: { firstBatch: bytes, charters: before(charter === null ? [] : [charter]), templates: before(templates), successions },
    };
  }
  throw new UkeyError('halted', 'a store that released batches holds none');
}

/** From --config, and from the options, which come first. Throws invalid-request. */
function configOf(given: Given): StoreConfig {
  const file = given.text('config');
  const token = file === undefined ? null : configuredToken(readConfig(file), given.text('token'));
  const own = { module: given.text('module'), soft: given.text('softToken') };
  if (own.module !== undefined && own.soft !== undefined)
    throw usage('--module and --soft-token exclude each other', { field: '--module' });
  const named = own.module !== undefined || own.soft !== undefined;
  const module = named ? own.module : token?.module;
  const softTokenPath = named ? own.soft : token?.soft_token;
  if (module === undefined && softTokenPath === undefined) {
    throw usage('the store can be read with its token alone: --module, --soft-token or --config is needed', { field: '--module' });
  }
  const flashPath = given.text('store') ?? token?.flash;
  if (flashPath === undefined) throw usage('--store is needed', { field: '--store' });
  checkPlace(flashPath, given.text('store') === undefined ? '--config' : '--store');
  const tokenLabel = given.text('tokenLabel') ?? token?.label;
  // They are this module's alone.
  const moduleParameters = named ? undefined : token?.module_parameters;
  return {
    module: module ?? null,
    ...(moduleParameters === undefined ? {} : { moduleParameters }),
    ...(softTokenPath === undefined ? {} : { softTokenPath }),
    ...(tokenLabel === undefined ? {} : { tokenLabel }),
    flashPath,
  };
}

/** Throws usage where it is not clear which one. */
function configuredToken({ tokens }: Config, name: string | undefined): TokenConfig {
  const [first, ...others] = tokens.filter((token) => name === undefined || token.name === name);
  if (first !== undefined && others.length === 0) return first;
  const names = tokens.map((token) => token.name).join(', ');
  throw usage(`--token must name one of the configured tokens: ${names}`, { field: '--token' });
}

/** A store is a block device or a file. Throws usage. */
function checkPlace(flashPath: string, field: string): void {
  const fault = faultOfPlace(flashPath);
  if (fault === null) return;
  throw usage(`the store ${flashPath} ${fault}`, { field, action: 'Name the block device or image that the service has as token.flash.' });
}

function faultOfPlace(flashPath: string): string | null {
  try {
    const found = statSync(flashPath);
    if (found.isFile()) return found.size === 0 ? 'is empty' : null;
    return found.isBlockDevice() ? null : 'is neither a block device nor an image';
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'is not there' : `cannot be looked at: ${String(code)}`;
  }
}

async function walk(store: OpenStore, ledger: LedgerCheck): Promise<void> {
  using progress = openProgress('Verifying', store.mount.nextBatch - 1);
  try {
    for await (const { batchIndex, bytes } of store.batches()) {
      ledger.add(bytes);
      progress.show(batchIndex);
    }
  } catch (thrown) {
    throw chainBroken(thrown, ledger);
  }
}

function answer(screen: Screen, config: StoreConfig, mount: Mount, report: LedgerReport): void {
  const torn = mount.tornBytes === 0 ? null : `${mount.tornBytes} bytes behind the head were never durable, as after a power cut`;
  const text = ledgerText(report, [
    ['Store', config.flashPath],
    ['Torn tail', torn],
  ]);
  screen.answer({ ...report, store: config.flashPath, tornBytes: mount.tornBytes }, text, report.holds ? 'done' : 'unverified');
}
