// Owns: `ukeyctl token replace`: a token that works hands its ledger over, so that a spare goes on with it; `--cancel` takes it back.
// Invariants: what cannot be undone without the token is asked for first; the backlog goes up before, where there is a line; the PIN comes from a prompt, a
// file or stdin.
import type { Command, Given } from '#ctl/command.ts';
import { confirm } from '#ctl/confirm.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { usage } from '#ctl/exit-codes.ts';
import { readPin } from '#ctl/prompt.ts';
import { counted, facts, type Screen } from '#ctl/screen.ts';
import { withTries } from '#ctl/session.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';

/** A slow token with a full pool before it; a large store that is read anew. */
const waitMs = 120_000;
const copyText = { mirror: 'the mirror', flash: 'the whole FLASH (no mirror has everything)' } as const;

export const replace: Command = {
  kind: 'command',
  name: 'replace',
  summary: 'hand the ledger of a token that works over to a spare',
  options: [
    ...adminOptions,
    { flags: '--yes', description: 'do not ask: from then on nothing is issued until the spare goes on' },
    { flags: '--cancel', description: 'the spare failed: take the ledger back with the old token (asks for its PIN)' },
    { flags: '--pin-file <file>', description: 'with --cancel: read the PIN from this file; - is stdin (default: a prompt)' },
    { flags: '--use-last-try', description: 'with --cancel: spend the last try too; a wrong PIN then locks the token' },
  ],
  examples: ['token replace', 'token replace --yes --json', 'token replace --cancel --pin-file pin'],
  async run(given, screen) {
    if (given.flag('cancel')) return await takeBack(given, screen);
    for (const name of ['pinFile', 'useLastTry'] as const)
      if (given.text(name) !== undefined || given.flag(name)) throw usage('the PIN is asked for only with --cancel');
    await confirm('Nothing more is issued then until the spare goes on with this ledger.', 'replace', given.flag('yes'));
    const result = await withAdmin(given, async (service) => {
      await service.call('backlog.flush', {}, waitMs).catch((thrown: unknown) => {
        screen.note(`What waits goes up when the spare goes on: ${asUkeyError(thrown).message}.`);
      });
      return await service.call('token.handOver', {}, waitMs);
    });
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['Token id', result.tokenId],
        ['Ledger', `${counted(result.entries, 'entry', 'entries')} in ${counted(result.batches, 'batch', 'batches')}, handed over`],
        ['Waits', `${counted(result.pending, 'document')} for the ticket server`],
        [
          'To do',
          `copy ${copyText[result.copy]}, plug in the spare, and run ukeyctl store restore with a recovery ticket (docs/provisioning.md)`,
        ],
      ]),
    );
  },
};

async function takeBack(given: Given, screen: Screen): Promise<void> {
  await confirm('Only where the spare has not gone on with this ledger: two tokens that do are a fork.', 'cancel', given.flag('yes'));
  const pin = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
  const useLastTry = given.flag('useLastTry') ? { useLastTry: true } : {};
  const result = await withAdmin(given, async (service) => {
    try {
      return await service.call('token.takeBack', { pin: pin.toString('utf8'), ...useLastTry }, waitMs);
    } catch (thrown) {
      throw await withTries(service, asUkeyError(thrown));
    } finally {
      pin.fill(0);
    }
  });
  screen.answer(result, facts([['Standing', result.standing]]));
}
