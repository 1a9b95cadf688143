// Owns: `ukeyctl store resume`: an older FLASH is brought up to date from the ticket server's copies, and the ledger goes on; or, where batches are lost for good
// and that is accepted, the ledger ends and a new one begins on the same device.
// Invariants: PINs come from prompts, stdin or files; the last try is spent only with --use-last-try; no ledger ends without its id from a person; it may be
// repeated after any failure.
import type { Command, Given } from '#ctl/command.ts';
import { confirm, typed } from '#ctl/confirm.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { usage } from '#ctl/exit-codes.ts';
import { readPin } from '#ctl/prompt.ts';
import { readTicket } from '#ctl/provision.ts';
import { facts, type Screen } from '#ctl/screen.ts';
import type { Result } from '#ipc-schema/methods.ts';
import type { EnrolmentTicket } from '#ipc-schema/upstream.ts';

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
    { flags: '--accept-end', description: 'where the FLASH cannot be read at its end: give up what may stand there and nobody knows of' },
    { flags: '--accept-loss', description: 'where batches are lost for good: end this ledger, make the KEY anew, and begin a new ledger' },
    { flags: '--ticket <file>', description: 'with --accept-loss: the enrolment ticket, with other series than the old ones; - is stdin' },
    { flags: '--so-pin-file <file>', description: 'with --accept-loss: read the SO-PIN from this file; - is stdin (default: a prompt)' },
    { flags: '--erase-ledger <token id>', description: 'with --accept-loss: the ledger that ends, by its id (default: asked for)' },
    { flags: '--yes', description: 'do not ask whether ending that ledger is meant' },
  ],
  examples: [
    'store resume',
    'store resume --pin-file /etc/ukeyd/pin',
    'store resume --accept-end',
    'store resume --accept-loss --ticket ticket.json',
    'store resume --accept-loss --ticket ticket.json --pin-file pin --so-pin-file so-pin --erase-ledger 0123456789abcdef0123456789abcdef --yes',
  ],
  async run(given, screen) {
    const ending = await readEnding(given);
    const pin = await readPin({ file: given.text('pinFile'), what: 'PIN', option: '--pin-file' }, screen);
    const soPin =
      ending === null ? null : await readPin({ file: given.text('soPinFile'), what: 'SO-PIN', option: '--so-pin-file' }, screen);
    const useLastTry = given.flag('useLastTry') ? { useLastTry: true } : {};
    const acceptEnd = given.flag('acceptEnd') ? { acceptEnd: true } : {};
    const result = await withAdmin(given, async (service) => {
      try {
        const acceptLoss = ending === null || soPin === null ? {} : { acceptLoss: { ...ending, soPin: soPin.toString('utf8') } };
        return await service.call('store.resume', { pin: pin.toString('utf8'), ...useLastTry, ...acceptEnd, ...acceptLoss }, resumeWaitMs);
      } finally {
        pin.fill(0);
        soPin?.fill(0);
      }
    });
    show(result, screen);
  },
};

/** What was accepted, with a person's word; null: nothing. */
async function readEnding(given: Given): Promise<{ readonly ticket: EnrolmentTicket; readonly eraseLedger: string } | null> {
  const isAccepted = given.flag('acceptLoss');
  const stray = (['ticket', 'soPinFile', 'eraseLedger'] as const).find((name) => given.text(name) !== undefined);
  if (!isAccepted && stray !== undefined)
    throw usage('--ticket, --so-pin-file and --erase-ledger belong to --accept-loss', { field: '--accept-loss' });
  if (!isAccepted) return null;
  const ticket = await readTicket(given.needText('ticket'));
  const named = given.text('eraseLedger');
  const question = 'If batches of the ledger are lost for good, it ends: its KEY and its FLASH are made anew, and a new ledger begins.';
  if (named === undefined) return { ticket, eraseLedger: await typed(question, 'Type the id of the ledger that ends: ', '--erase-ledger') };
  await confirm(question, named, given.flag('yes'));
  return { ticket, eraseLedger: named };
}

function show(result: Result<'store.resume'>, screen: Screen): void {
  const { foundBatch, anchoredBatch, healedToBatch, serverBatch, newLedger } = result;
  if (newLedger !== undefined) {
    const { tokenId, ledger, lastBatch, knownBatch } = newLedger;
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['Ended', `ledger ${ledger}, at batch ${lastBatch}, which the server holds`],
        ['Lost', `batches ${lastBatch + 1} to ${knownBatch}, at least`],
        ['Begun', `ledger ${tokenId}`],
        ['To do', "compare the tills' last receipts with the server's entries: what is missing there was issued, and is lost"],
      ]),
    );
    return;
  }
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
}
