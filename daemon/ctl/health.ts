// Owns: `ukeyctl health`: for unattended monitoring, whether documents can be issued now, as an exit status. Of several tokens each must issue: the tills of one
// are no help to those of another.
import type { Command } from '#ctl/command.ts';
import { serviceOptions, withService } from '#ctl/connection.ts';
import { usage } from '#ctl/exit-codes.ts';
import { table } from '#ctl/screen.ts';
import { isIssuing } from '#ipc-schema/status.ts';

export const health: Command = {
  kind: 'command',
  name: 'health',
  summary: 'whether documents can be issued now: exit status 0, or 7; 4 where the service does not answer',
  options: serviceOptions,
  examples: ['health', 'health --token annex', 'health --json'],
  async run(given, screen) {
    const all = await withService(given, screen, (service) => service.call('service.tokens', {}));
    const name = given.text('token');
    const tokens = all.tokens.filter(({ token }) => name === undefined || token === name);
    if (tokens.length === 0) throw usage('the service has no token of this name', { field: '--token' });
    const ready = tokens.every(({ standing }) => isIssuing(standing));
    const rows = tokens.map(({ token, standing, reason, action }) => [token, standing, reason, action]);
    screen.answer({ ready, tokens }, table(['TOKEN', 'STANDING', 'REASON', 'TO DO'], rows), ready ? 'done' : 'unready');
  },
};
