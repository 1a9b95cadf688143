// Owns: `ukeyctl store resume`: an older FLASH is brought up to date from the ticket server's copies, and the ledger goes on.
// Invariants: the PIN comes from a prompt, stdin or a file; the last try is spent only with --use-last-try; it may be repeated after any failure.
import type { Command } from '#ctl/command.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { readPin } from '#ctl/prompt.ts';
import { facts } from '#ctl/screen.ts';

/** A day's batches, each with a sync of its own. */
const resumeWaitMs = 3_600_000;

export const resumeCommand: Command = {
  kind: 'command',
  name: 'resume',
  summary: 'bring an older FLASH up to date from the ticket server, and go on',
  options: [
    ...adminOptions,
    { flags: '--pin-file <file>', description: 'read the PIN from this file; - is stdin (default: a prompt on a terminal, else stdin)' },
    { flags: '--use-last-try', description: 'spend the last try too; a wrong PIN then locks the token' },
  ],
  examples: ['store resume', 'store resume --pin-file /etc/ukeyd/pin'],
  async run(given, screen) {
    const pin = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
    const useLastTry = given.flag('useLastTry') ? { useLastTry: true } : {};
    const result = await withAdmin(given, async (service) => {
      try {
        return await service.call('store.resume', { pin: pin.toString('utf8'), ...useLastTry }, resumeWaitMs);
      } finally {
        pin.fill(0);
      }
    });
    const { foundBatch, anchoredBatch, healedToBatch, serverBatch } = result;
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['FLASH', `ended at batch ${foundBatch}, ends at batch ${healedToBatch} now`],
        ['KEY', anchoredBatch === 0 ? null : `had seen batch ${anchoredBatch}`],
        ['Server', `holds batch ${serverBatch}`],
        ['To do', "compare the tills' last receipts: what was issued in the last minute before and never got out, nobody here knows of"],
      ]),
    );
  },
};
