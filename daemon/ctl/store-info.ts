// Owns: `ukeyctl store info`: the running service's figures about its store, or, with --store, what stands in the plain head of a FLASH, mirror or image.
// Invariants: with --store neither service nor PIN is needed, it is only read, and what is no store is told as such. The plain head is checked for rot, not
// for forgery: that takes the data key.
import type { Command, Given } from '#ctl/command.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { endAs, usage } from '#ctl/exit-codes.ts';
import { counted, facts, type Screen } from '#ctl/screen.ts';
import { forecastText } from '#ctl/status.ts';
import { refuseNoStore, storePathAction } from '#ctl/store-path.ts';
import { systemText } from '#ground/state-fault.ts';
import { asUkeyError, errorTable, UkeyError } from '#ipc-schema/errors.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { openFileDevice } from '#store/device-file.ts';
import { logStartBytes } from '#store/format.ts';
import { readStoreHeader } from '#store/log.ts';
import type { StoreHeader } from '#store/store.ts';

const damagedAction = `${storePathAction} If it is one it is damaged: ukeyctl store check, or restore it from its mirror (ukeyctl store restore).`;

export const info: Command = {
  kind: 'command',
  name: 'info',
  summary: "the store's figures; of any FLASH, mirror or image what can be read without its token",
  options: [
    ...adminOptions,
    { flags: '--store <path>', description: 'a block device or image, read directly: needs neither service nor PIN' },
  ],
  examples: ['store info', 'store info --store /dev/sdb', 'store info --store /var/lib/ukeyd/mirror-0f3a.img --json'],
  async run(given, screen) {
    const path = given.text('store');
    if (path === undefined) await tellRunning(given, screen);
    else await tellHead(path, screen);
  },
};

async function tellRunning(given: Given, screen: Screen): Promise<void> {
  const { standing, reason, action, store } = await withAdmin(given, (service) => service.call('service.status', {}));
  screen.answer({ standing, reason, store }, runningText({ standing, reason, action, store }));
}

/** For people. Pure. */
export function runningText({ standing, reason, action, store }: Pick<ServiceStatus, 'standing' | 'reason' | 'action' | 'store'>): string {
  if (store === null)
    return facts([
      ['Store', 'none is open'],
      ['Standing', standing],
      ['Reason', reason],
      ['To do', action],
    ]);
  const { mirrorState } = store;
  return facts([
    ['Store', store.path],
    ['Size', bytes(store.sizeBytes)],
    ['Used', `${bytes(store.usedBytes)} (${store.usedPercent} %), ${forecastText(store.forecast)}`],
    ['Written', `${bytes(store.bytesWritten)} since it was formatted`],
    ['Content', `${counted(store.entries, 'entry', 'entries')} in ${counted(store.batches, 'batch', 'batches')}`],
    ['Torn tail', store.tornBytes === 0 ? null : `${store.tornBytes} bytes were cut at the last opening`],
    [
      'Mirror',
      mirrorState === null ? store.mirror : `${store.mirror}, ${mirrorState.failure ?? `${bytes(mirrorState.behindBytes)} behind`}`,
    ],
  ]);
}

async function tellHead(path: string, screen: Screen): Promise<void> {
  const header = await readHead(path);
  if (header === null)
    throw usage(`${path} holds no store: its first 4 MiB are blank`, {
      field: '--store',
      action: storePathAction,
    });
  screen.answer(
    {
      store: path,
      storeId: hex(header.storeId),
      tokenKeyId: hex(header.tokenKeyId),
      formatVersion: header.formatVersion,
      mountEpoch: header.mountEpoch,
      sizeBytes: header.sizeBytes,
      segmentBytes: header.segmentBytes,
      slots: header.slots.map(({ method }) => method),
    },
    headText(path, header),
  );
}

async function readHead(path: string): Promise<StoreHeader | null> {
  refuseNoStore(path, '--store', 'ukeyctl');
  try {
    const device = await openFileDevice(path, { readOnly: true });
    try {
      if (device.sizeBytes < logStartBytes) throw usage(`${path} is too small for a store`, { field: '--store', action: storePathAction });
      return await readStoreHeader(device);
    } finally {
      await device.close();
    }
  } catch (thrown) {
    const error = asUkeyError(thrown);
    const { cause } = error;
    // Not even opened: no right to it, or it is gone meanwhile.
    if (cause instanceof Error && 'syscall' in cause && cause.syscall === 'open')
      throw usage(`${path} cannot be read: ${systemText(cause)}`, { field: '--store', action: storePathAction, cause: error });
    if (error.code !== 'halted' || error.action !== errorTable.halted.action)
      throw endAs(error.code === 'no-token' ? 'usage' : 'unverified', error);
    throw endAs('unverified', new UkeyError('halted', error.message, { action: damagedAction, cause: error }));
  }
}

function headText(path: string, header: StoreHeader): string {
  return facts([
    ['Store', path],
    ['Store id', hex(header.storeId)],
    ['Token key', hex(header.tokenKeyId)],
    ['Format', String(header.formatVersion)],
    ['Opened', `${counted(header.mountEpoch, 'time')} for writing`],
    ['Size', bytes(header.sizeBytes)],
    ['Segments', `of ${bytes(header.segmentBytes)}`],
    ['Key slots', header.slots.map(({ method }) => method).join(', ')],
  ]);
}

const hex = (given: Uint8Array): string => Buffer.from(given).toString('hex');

function bytes(count: number): string {
  const mib = count / (1024 * 1024);
  if (count < 1024 * 1024) return `${Math.ceil(count / 1024)} KiB`;
  return mib >= 1024 ? `${(mib / 1024).toFixed(1)} GiB` : `${mib.toFixed(mib < 10 ? 1 : 0)} MiB`;
}
