// Owns: `ukeyctl terminal enrol|list|remove`: which programs may speak through the till socket.
// Invariants: a secret goes into a new file of its owner's alone, or, asked for with --show or --json, to stdout; it exists once. With --replace it
// takes the place of the one that the terminal had: where it is lost all the same, that is said.
import type { Command, CommandGroup, Given } from '#ctl/command.ts';
import { wholeOptions, withAdmin } from '#ctl/connection.ts';
import { endAs, endingOf, usage } from '#ctl/exit-codes.ts';
import { openSecretFile } from '#ctl/output-file.ts';
import { facts, outputTaken, table } from '#ctl/screen.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
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
    { flags: '--replace', description: 'of one that is enrolled already: a new secret and role; whoever has the old secret is locked out' },
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
    // The file and its room first: the terminal's old secret is worth nothing once there is a new one.
    const file = secretFile === undefined ? null : openSecretFile(secretFile, '--secret-file');
    const isShown = given.flag('show') || secretFile === undefined;
    let kept = false;
    try {
      const { secret, ...enrolled } = await enrolIt(
        { terminal, role, ...(token === undefined ? {} : { token }), ...(given.flag('replace') ? { replace: true } : {}) },
        given,
      );
      const fault = faultOf(() => file?.write(secret));
      kept = fault === null;
      if (fault !== null && !isShown) throw lost(terminal, fault);
      const written = secretFile === undefined || !kept ? {} : { secretFile };
      screen.answer(
        { ...enrolled, ...written, ...(isShown ? { secret } : {}) },
        facts([
          ['Terminal', enrolled.terminal],
          ['Role', enrolled.role],
          ['Token', enrolled.token ?? null],
          ['Secret file', written.secretFile ?? null],
          ['Secret', isShown ? secret : null],
        ]),
      );
      if (!kept || file === null) await seen(terminal);
      if (fault !== null) throw unkept(fault);
    } finally {
      if (!kept) file?.discard();
    }
  },
};

async function enrolIt(params: Params<'terminal.enrol'>, given: Given): Promise<Result<'terminal.enrol'>> {
  try {
    return await withAdmin(given, (service) => service.call('terminal.enrol', params));
  } catch (thrown) {
    const { error, exit } = endingOf(thrown);
    if (exit !== 'unknown') throw thrown;
    const action = `${enrolAgain} If it was enrolled already, its old secret may be worth nothing now.`;
    throw endAs(exit, new UkeyError(error.code, error.message, { action, cause: error }));
  }
}

const enrolAgain = 'Enrol it again with --replace, and give it the secret that you get then.';

function faultOf(step: () => void): UkeyError | null {
  try {
    step();
    return null;
  } catch (thrown) {
    return asUkeyError(thrown);
  }
}

/** What stands on stdout is the only copy. */
async function seen(terminal: string): Promise<void> {
  try {
    await outputTaken(true);
  } catch (thrown) {
    throw lost(terminal, thrown);
  }
}

/** The service knows the new secret alone, and nobody else does. */
function lost(terminal: string, cause: unknown): UkeyError {
  const message = `${terminal} has no valid secret now: the new one was lost: ${asUkeyError(cause).message}`;
  return endAs('unfinished', new UkeyError('internal', message, { action: enrolAgain, cause }));
}

function unkept(cause: UkeyError): UkeyError {
  const action = 'Keep the secret that was shown: it is the only copy.';
  return endAs('unfinished', new UkeyError('internal', cause.message, { action, cause }));
}

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
