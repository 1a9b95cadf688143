// Owns: `ukeyctl health`: for unattended monitoring, whether a document can be issued now, as an exit status.
import type { Command } from '#ctl/command.ts';
import { serviceOptions, withService } from '#ctl/connection.ts';
import { facts } from '#ctl/screen.ts';
import { isIssuing } from '#ipc-schema/status.ts';

export const health: Command = {
  kind: 'command',
  name: 'health',
  summary: 'whether a document can be issued now: exit status 0, or 7; 4 where the service does not answer',
  options: serviceOptions,
  examples: ['health', 'health --json'],
  async run(given, screen) {
    const { standing, reason, action } = await withService(given, screen, (service) => service.call('service.status', {}));
    const ready = isIssuing(standing);
    const text = facts([
      ['Standing', standing],
      ['Reason', reason],
      ['To do', action],
    ]);
    screen.answer({ ready, standing, reason, action }, text, ready ? 'done' : 'unready');
  },
};
