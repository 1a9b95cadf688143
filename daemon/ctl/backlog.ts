// Owns: `ukeyctl backlog`: what waits for the ticket server, and sending it now.
import type { Command } from '#ctl/command.ts';
import { serviceOptions, withService } from '#ctl/connection.ts';
import { facts } from '#ctl/screen.ts';

/** A flush probes and uploads before it answers. */
const flushWaitMs = 300_000;

export const backlog: Command = {
  kind: 'command',
  name: 'backlog',
  summary: 'what waits for the ticket server, and why',
  options: [...serviceOptions, { flags: '--flush', description: 'probe and upload now instead of at the next time of the timetable' }],
  examples: ['backlog', 'backlog --json', 'backlog --flush'],
  async run(given, screen) {
    const found = await withService(given, screen, (service) =>
      given.flag('flush') ? service.call('backlog.flush', {}, flushWaitMs) : service.call('backlog.status', {}),
    );
    screen.answer(
      found,
      facts([
        ['Pending', found.pending === 0 ? 'nothing' : `${found.pending} (${found.amount})`],
        ['Oldest', found.oldest],
        ['Link', found.link],
        ['Last attempt', found.lastAttempt],
        ['Last error', found.lastError],
        ['Next probe', found.nextProbe],
        ['Parked', found.parked.join(', ')],
      ]),
    );
  },
};
