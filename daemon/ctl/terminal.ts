// Owns: `ukeyctl terminal enrol|list|remove`: which programs may speak through the till socket.
// Invariants: a secret goes into a new file of its owner's alone, or, asked for with --show or --json, to stdout; it exists once.
import type { Command, CommandGroup } from '#ctl/command.ts';
import { wholeOptions, withAdmin } from '#ctl/connection.ts';
import { usage } from '#ctl/exit-codes.ts';
import { openSecretFile } from '#ctl/output-file.ts';
import { facts, table } from '#ctl/screen.ts';
import type { Params } from '#ipc-schema/methods.ts';
import { terminalRoles } from '#ipc-schema/methods.ts';

type TerminalRole = Params<'terminal.enrol'>['role'];

const terminalArgument = { name: '<terminal>', description: 'its id: letters, digits, . _ -' };

const enrol: Command = {
  kind: 'command',
  name: 'enrol',
  summary: 'enrol a terminal; its secret is told once',
  arguments: [terminalArgument],
  options: [
    ...wholeOptions,
    { flags: '--token <name>', description: 'the only token that it may use, where the service has several; it need not name one then' },
    { flags: '--role <role>', description: `${terminalRoles.join(', ')} (default: till)` },
    { flags: '--secret-file <file>', description: 'write the secret to this new file, readable by its owner alone' },
    { flags: '--show', description: 'print the secret' },
  ],
  examples: [
    'terminal enrol till-1 --secret-file till-1.secret',
    'terminal enrol erp --role erp --show',
    'terminal enrol till-2 --token annex --show',
  ],
  async run(given, screen) {
    const terminal = given.needArgument(0);
    const role = readRole(given.text('role') ?? 'till');
    const token = given.text('token');
    const secretFile = given.text('secretFile');
    if (secretFile === undefined && !given.flag('show') && !screen.json)
      throw usage('where shall the secret go? --secret-file or --show is needed', { field: '--secret-file' });
    // The file first: a secret that was told and could not be kept would be lost.
    const file = secretFile === undefined ? null : openSecretFile(secretFile, '--secret-file');
    let kept = false;
    try {
      const { secret, ...enrolled } = await withAdmin(given, (service) =>
        service.call('terminal.enrol', { terminal, role, ...(token === undefined ? {} : { token }) }),
      );
      file?.write(`${secret}\n`);
      kept = true;
      const shown = given.flag('show') || secretFile === undefined ? { secret } : {};
      const written = secretFile === undefined ? {} : { secretFile };
      screen.answer(
        { ...enrolled, ...written, ...shown },
        facts([
          ['Terminal', enrolled.terminal],
          ['Role', enrolled.role],
          ['Token', enrolled.token ?? null],
          ['Secret file', secretFile ?? null],
          ['Secret', 'secret' in shown ? shown.secret : null],
        ]),
      );
    } finally {
      if (!kept) file?.discard();
    }
  },
};

const list: Command = {
  kind: 'command',
  name: 'list',
  summary: 'enrolled terminals, without their secrets',
  options: wholeOptions,
  examples: ['terminal list'],
  async run(given, screen) {
    const result = await withAdmin(given, (service) => service.call('terminal.list', {}));
    const bound = result.terminals.some(({ token }) => token !== undefined);
    const rows = result.terminals.map(({ terminal, role, token }) => [terminal, role, ...(bound ? [token ?? 'any'] : [])]);
    screen.answer(result, rows.length === 0 ? 'No terminal is enrolled.' : table(['Terminal', 'Role', ...(bound ? ['Token'] : [])], rows));
  },
};

const remove: Command = {
  kind: 'command',
  name: 'remove',
  summary: 'forget a terminal',
  arguments: [terminalArgument],
  options: wholeOptions,
  examples: ['terminal remove till-1'],
  async run(given, screen) {
    const terminal = given.needArgument(0);
    const result = await withAdmin(given, (service) => service.call('terminal.remove', { terminal }));
    screen.answer(result, facts([['Removed', result.terminal]]));
  },
};

export const terminal: CommandGroup = {
  kind: 'group',
  name: 'terminal',
  summary: 'the programs that may issue: enrol, list, remove',
  commands: [enrol, list, remove],
};

function readRole(text: string): TerminalRole {
  const role = terminalRoles.find((one) => one === text);
  if (role === undefined) throw usage(`--role is none of ${terminalRoles.join(', ')}`, { field: '--role' });
  return role;
}
