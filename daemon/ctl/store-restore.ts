// Owns: `ukeyctl store restore`: a lost FLASH made anew from its mirror, or a dead token's ledger put on another token.
// Invariants: PINs come from prompts, files or stdin; what would erase a FLASH needs --erase; it may be repeated after any failure.
import path from 'node:path';
import type { Command } from '#ctl/command.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { endAs } from '#ctl/exit-codes.ts';
import { readJson } from '#ctl/input.ts';
import { readPin } from '#ctl/prompt.ts';
import { facts } from '#ctl/screen.ts';
import { refuseNoStore } from '#ctl/store-path.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';
import { parseRecoveryTicket, type RecoveryTicket } from '#ipc-schema/recovery.ts';

/** Writing a whole FLASH and its mirror. */
const restoreWaitMs = 3_600_000;
/** A request that is not right is refused sooner. */
const refusalMs = 3_000;

export const restore: Command = {
  kind: 'command',
  name: 'restore',
  summary: "make a lost FLASH anew from its mirror, or put a dead token's ledger on another token",
  options: [
    ...adminOptions,
    { flags: '--from <path>', description: "the copy: the mirror's file or device, or the FLASH of a dead KEY; it is only read" },
    { flags: '--ticket <file>', description: 'for another KEY: the recovery ticket from headquarters (JSON); - is stdin' },
    { flags: '--label <label>', description: 'for a blank token: the name that it shall carry' },
    {
      flags: '--pin-file <file>',
      description: "read the token's PIN (of a blank token: its new PIN) from this file; - is stdin (default: a prompt)",
    },
    { flags: '--so-pin-file <file>', description: 'for a blank token: read the SO-PIN from this file; - is stdin (default: a prompt)' },
    { flags: '--erase', description: 'write over a FLASH that is not blank: what stands on it is lost' },
  ],
  examples: [
    'store restore --from /srv/mirror/mirror-0f3a.img',
    'store restore --from /srv/mirror/mirror-0f3a.img --ticket recovery.json --label shop-7',
    'store restore --from /dev/sdc --ticket recovery.json --pin-file pin',
  ],
  async run(given, screen) {
    const from = path.resolve(given.needText('from'));
    refuseNoStore(from, '--from', 'service');
    const ticketFile = given.text('ticket');
    const ticket = ticketFile === undefined ? {} : { ticket: await readTicket(ticketFile) };
    const label = given.text('label');
    const isBlank = label !== undefined;
    const pin = await readPin(
      { file: given.text('pinFile'), what: isBlank ? 'new PIN' : 'PIN', option: '--pin-file', twice: isBlank },
      screen,
    );
    const soPin = isBlank ? await readPin({ file: given.text('soPinFile'), what: 'SO-PIN', option: '--so-pin-file' }, screen) : null;
    const blank = soPin === null || label === undefined ? {} : { soPin: soPin.toString('utf8'), label };
    const erase = given.flag('erase') ? { erase: true } : {};
    const result = await withAdmin(given, async (service) => {
      // What is refused is refused before this: the copy is read and checked first.
      const writing = setTimeout(() => screen.note('The copy is read, then the FLASH is written; a large one takes minutes.'), refusalMs);
      try {
        return await service.call('store.restore', { from, pin: pin.toString('utf8'), ...blank, ...ticket, ...erase }, restoreWaitMs);
      } finally {
        clearTimeout(writing);
        pin.fill(0);
        soPin?.fill(0);
      }
    });
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['Token id', result.tokenId],
        ['Key', keyText(result)],
        ['Restored', `${result.entries} entries in ${result.batches} batches`],
        ['Key wrapping', result.keyWrapping],
      ]),
    );
  },
};

function keyText({ successor, planned }: Result<'store.restore'>): string {
  if (!successor) return 'the same';
  return planned ? 'another one goes on with the ledger, which was handed over' : 'another one goes on with the ledger';
}

async function readTicket(file: string): Promise<RecoveryTicket> {
  const value = await readJson(file, '--ticket');
  try {
    return parseRecoveryTicket(value);
  } catch (thrown) {
    throw endAs('usage', asUkeyError(thrown));
  }
}
