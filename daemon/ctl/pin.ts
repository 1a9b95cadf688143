// Owns: `ukeyctl pin change` and `pin unblock`: a new PIN for the old one, or by the SO-PIN (PUK).
// Invariants: how many tries are left is told before a PIN is asked for; PINs come from prompts, files or stdin, never from the command line; the
// last try is spent only with --use-last-try.
import type { Command, CommandGroup } from '#ctl/command.ts';
import { adminOptions, type Service, withAdmin } from '#ctl/connection.ts';
import { readPin } from '#ctl/prompt.ts';
import { facts, type Screen } from '#ctl/screen.ts';
import { withTries } from '#ctl/session.ts';
import { pinText } from '#ctl/status.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';

/** A module may take long over a PIN. */
const pinWaitMs = 60_000;
const fileOf = (what: string): string => `read the ${what} from this file; - is stdin (default: a prompt)`;
const newPinOption = { flags: '--new-pin-file <file>', description: fileOf('new PIN') };

const change: Command = {
  kind: 'command',
  name: 'change',
  summary: 'give the token a new PIN for the old one; the service goes on',
  options: [
    ...adminOptions,
    { flags: '--pin-file <file>', description: fileOf('PIN of now') },
    newPinOption,
    { flags: '--use-last-try', description: 'spend the last try too; a wrong PIN then locks the token' },
  ],
  examples: ['pin change', 'pin change --pin-file old --new-pin-file new'],
  async run(given, screen) {
    tellTries(await withAdmin(given, statusOf), screen);
    const old = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
    const fresh = await readPin({ file: given.text('newPinFile'), what: 'new PIN', option: '--new-pin-file', twice: true }, screen);
    const useLastTry = given.flag('useLastTry') ? { useLastTry: true } : {};
    const result = await withAdmin(given, async (service) => {
      try {
        const pins = { pin: old.toString('utf8'), newPin: fresh.toString('utf8') };
        return await service.call('session.changePin', { ...pins, ...useLastTry }, pinWaitMs);
      } catch (thrown) {
        throw await withTries(service, asUkeyError(thrown));
      } finally {
        old.fill(0);
        fresh.fill(0);
      }
    });
    answer(result, screen);
  },
};

const unblock: Command = {
  kind: 'command',
  name: 'unblock',
  summary: 'give a locked token a new PIN by its SO-PIN (PUK)',
  options: [...adminOptions, { flags: '--so-pin-file <file>', description: fileOf('SO-PIN') }, newPinOption],
  examples: ['pin unblock', 'pin unblock --so-pin-file so-pin --new-pin-file new'],
  async run(given, screen) {
    tellTries(await withAdmin(given, statusOf), screen);
    const soPin = await readPin({ file: given.text('soPinFile'), what: 'SO-PIN', option: '--so-pin-file' }, screen);
    const fresh = await readPin({ file: given.text('newPinFile'), what: 'new PIN', option: '--new-pin-file', twice: true }, screen);
    const result = await withAdmin(given, async (service) => {
      try {
        return await service.call('session.unblock', { soPin: soPin.toString('utf8'), newPin: fresh.toString('utf8') }, pinWaitMs);
      } finally {
        soPin.fill(0);
        fresh.fill(0);
      }
    });
    answer(result, screen);
  },
};

export const pin: CommandGroup = {
  kind: 'group',
  name: 'pin',
  summary: "change the token's PIN, or unblock it",
  commands: [change, unblock],
};

const statusOf = (service: Service): Promise<Result<'service.status'>> => service.call('service.status', {});

function tellTries({ token }: Result<'service.status'>, screen: Screen): void {
  if (token !== null) screen.note(`${token.label}: ${pinText(token.pinState, token.triesLeft)}`);
}

function answer(result: Result<'session.changePin'>, screen: Screen): void {
  if (result.storedPin === 'wrong')
    screen.note('The PIN file of the service holds another PIN: put the new one into it, or the service cannot log in by itself.');
  screen.answer(
    result,
    facts([
      ['Standing', result.standing],
      ['PIN', pinText(result.pinState, result.triesLeft)],
    ]),
  );
}
