// Owns: `ukeyctl login` and `logout`: the token's PIN goes in, or the data key is wiped.
// Invariants: the PIN comes from a prompt, stdin or a file, never from the command line; the last try is spent only with
// --use-last-try; a refusal says how many tries are left, as far as the module tells.
import type { Command } from '#ctl/command.ts';
import { adminOptions, type Service, withAdmin } from '#ctl/connection.ts';
import { endAs } from '#ctl/exit-codes.ts';
import { readPin } from '#ctl/prompt.ts';
import { facts } from '#ctl/screen.ts';
import { pinText } from '#ctl/status.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';

/** A module may take long to check a PIN, and mounting a store long to recover it. */
const loginWaitMs = 120_000;

export const login: Command = {
  kind: 'command',
  name: 'login',
  summary: 'unlock the token with its PIN',
  options: [
    ...adminOptions,
    { flags: '--pin-file <file>', description: 'read the PIN from this file; - is stdin (default: a prompt on a terminal, else stdin)' },
    { flags: '--use-last-try', description: 'spend the last try too; a wrong PIN then locks the token' },
  ],
  examples: ['login', 'login --pin-file /etc/ukeyd/pin', 'login --pin-file - < pin', 'login --use-last-try'],
  async run(given, screen) {
    const pin = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
    const useLastTry = given.flag('useLastTry') ? { useLastTry: true } : {};
    const result = await withAdmin(given, async (service) => {
      try {
        return await service.call('session.login', { pin: pin.toString('utf8'), ...useLastTry }, loginWaitMs);
      } catch (thrown) {
        const error = asUkeyError(thrown);
        if (error.code === 'busy') return await untilRead(service, error, (text) => screen.note(text));
        throw await withTries(service, error);
      } finally {
        pin.fill(0);
      }
    });
    if (!result.checked) screen.note('The token was open already; this PIN was not checked.');
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['Tries left', result.triesLeft === null ? null : String(result.triesLeft)],
      ]),
    );
  },
};

export const logout: Command = {
  kind: 'command',
  name: 'logout',
  summary: 'lock the token and wipe the data key',
  options: adminOptions,
  examples: ['logout'],
  async run(given, screen) {
    const result = await withAdmin(given, (service) => service.call('session.logout', {}));
    screen.answer(result, facts([['Standing', result.standing]]));
  },
};

const readPollMs = 1_000;

/** The PIN was right; a ledger that is new to this machine is read before it may be used, which is shown every ten seconds. */
async function untilRead(service: Service, error: UkeyError, tell: (text: string) => void): Promise<Result<'session.login'>> {
  for (let polls = 0; ; polls += 1) {
    const { standing, reason, token } = await service.call('service.status', {});
    // Locked with a token id: logged in, and the ledger on its way.
    if (standing !== 'locked') return { standing, triesLeft: token?.triesLeft ?? null, checked: true };
    if (token?.tokenId === null || token === null) throw error;
    if (polls % 10 === 0) tell(`${reason[0]?.toUpperCase()}${reason.slice(1)} ...`);
    await new Promise((resolve) => setTimeout(resolve, readPollMs));
  }
}

type PinState = NonNullable<Result<'service.status'>['token']>['pinState'];
const pinCodes: readonly string[] = ['pin-incorrect', 'pin-last-try', 'pin-locked'];

/** Beside a refusal: that the PIN itself is well would read as if it had been right. */
function leftText(pinState: PinState, triesLeft: number | null): string {
  if (pinState !== 'ok') return pinText(pinState, triesLeft);
  if (triesLeft === null) return 'the token does not say how many tries are left';
  return triesLeft === 1 ? '1 try left' : `${triesLeft} tries left`;
}

function triesAction({ code, action }: UkeyError, pinState: PinState): string {
  if (pinState === 'locked') return 'Give the token a new PIN by its SO-PIN (PUK): ukeyctl pin unblock.';
  return code === 'pin-last-try' ? 'Be sure of the PIN, then repeat with --use-last-try.' : action;
}

/** A refused PIN, with what the service knows about the tries that are left. */
export async function withTries(service: Service, error: UkeyError): Promise<UkeyError> {
  if (!pinCodes.includes(error.code)) return error;
  try {
    const { token } = await service.call('service.status', {});
    if (token === null) return error;
    const { triesLeft, pinState } = token;
    const said = new UkeyError(error.code, `${error.message}; ${leftText(pinState, triesLeft)}`, {
      field: error.field,
      action: triesAction(error, pinState),
      cause: error,
    });
    return endAs('refused', said, { triesLeft, pinState });
  } catch (thrown) {
    // The refusal is the answer; what could not be asked in addition is not.
    return endAs('refused', error, { triesLeft: null, statusError: asUkeyError(thrown).code });
  }
}
