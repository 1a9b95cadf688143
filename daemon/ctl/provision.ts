// Owns: `ukeyctl provision`: a blank token becomes ready to issue.
// Invariants: both PINs come from prompts, files or stdin; what would erase anything needs --erase and a yes, and a ledger its token id besides.
import type { Command } from '#ctl/command.ts';
import { confirm } from '#ctl/confirm.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { endAs, usage } from '#ctl/exit-codes.ts';
import { readJson } from '#ctl/input.ts';
import { readPin } from '#ctl/prompt.ts';
import { facts } from '#ctl/screen.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { type EnrolmentTicket, parseTicket } from '#ipc-schema/upstream.ts';

/** Making keys on a chip, enrolment, and writing a whole image. */
const provisionWaitMs = 600_000;

export const provision: Command = {
  kind: 'command',
  name: 'provision',
  summary: 'make a blank token ready: PIN, keys, enrolment at the ticket server, FLASH formatted',
  options: [
    ...adminOptions,
    { flags: '--ticket <file>', description: 'the enrolment ticket from headquarters (JSON); - is stdin' },
    { flags: '--label <label>', description: 'the name that the token shall carry' },
    { flags: '--pin-file <file>', description: 'read the new PIN from this file; - is stdin (default: a prompt)' },
    { flags: '--so-pin-file <file>', description: 'read the SO-PIN from this file; - is stdin (default: a prompt)' },
    { flags: '--erase', description: 'format a FLASH that is not blank: what stands on it is lost' },
    { flags: '--erase-ledger <token id>', description: 'with --erase: the ledger on the FLASH that may be lost, by the id of its token' },
    { flags: '--yes', description: 'do not ask whether erasing is meant' },
  ],
  examples: [
    'provision --ticket ticket.json --label shop-7',
    'provision --ticket ticket.json --label shop-7 --pin-file pin --so-pin-file so-pin',
    'provision --ticket ticket.json --label shop-7 --erase',
  ],
  async run(given, screen) {
    const eraseLedger = given.text('eraseLedger');
    if (eraseLedger !== undefined && !given.flag('erase')) throw usage('--erase-ledger belongs to --erase', { field: '--erase-ledger' });
    const label = given.needText('label');
    const ticket = await readTicket(given.needText('ticket'));
    if (given.flag('erase')) {
      const what = eraseLedger === undefined ? 'Whatever the FLASH holds, save a ledger,' : `The ledger of token ${eraseLedger}`;
      await confirm(`${what} will be lost for good.`, eraseLedger ?? 'erase', given.flag('yes'));
    }
    const pin = await readPin({ file: given.text('pinFile'), what: 'new PIN', option: '--pin-file', twice: true }, screen);
    const soPin = await readPin({ file: given.text('soPinFile'), what: 'SO-PIN', option: '--so-pin-file' }, screen);
    const erase = given.flag('erase') ? { erase: true, ...(eraseLedger === undefined ? {} : { eraseLedger }) } : {};
    const result = await withAdmin(given, async (service) => {
      try {
        const pins = { pin: pin.toString('utf8'), soPin: soPin.toString('utf8') };
        return await service.call('token.provision', { label, ticket, ...pins, ...erase }, provisionWaitMs);
      } finally {
        pin.fill(0);
        soPin.fill(0);
      }
    });
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['Token id', result.tokenId],
        ['Key wrapping', result.keyWrapping],
      ]),
    );
  },
};

export async function readTicket(file: string): Promise<EnrolmentTicket> {
  const value = await readJson(file, '--ticket');
  try {
    return parseTicket(value);
  } catch (thrown) {
    throw endAs('usage', asUkeyError(thrown));
  }
}
