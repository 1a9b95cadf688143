#!/usr/bin/env node
// Owns: ukeyctl: the list of its commands, and the way from a command line to one of them. The only door to the argument parser.
// Invariants: the answer goes to stdout, all else to stderr; the exit status is one of ctl/exit-codes.ts; what was typed is never
// repeated in an error further than an option's name: it may have been a PIN.
// Must not: talk to the service; commands do, through ipc-schema/client.ts.
import { readFileSync } from 'node:fs';
import { CommanderError, Command as Parser } from 'commander';
import { audit } from '#ctl/audit.ts';
import { backlog } from '#ctl/backlog.ts';
import { type Command, type CommandGroup, Given } from '#ctl/command.ts';
import { config } from '#ctl/config.ts';
import { demo } from '#ctl/demo.ts';
import { endAs, exitCodes, usage } from '#ctl/exit-codes.ts';
import { exportCommand } from '#ctl/export.ts';
import { health } from '#ctl/health.ts';
import { get, issue } from '#ctl/invoice.ts';
import { pin } from '#ctl/pin.ts';
import { provision } from '#ctl/provision.ts';
import { replay } from '#ctl/replay.ts';
import { sandbox } from '#ctl/sandbox.ts';
import { openScreen, outputTaken, printFailure, watchOutput } from '#ctl/screen.ts';
import { login, logout } from '#ctl/session.ts';
import { status } from '#ctl/status.ts';
import { store } from '#ctl/store.ts';
import { terminal } from '#ctl/terminal.ts';
import { token } from '#ctl/token.ts';
import { verify } from '#ctl/verify.ts';
import { optionLetters } from '#ground/command-line.ts';

/** In the order of the help. */
const commands: readonly (Command | CommandGroup)[] = [
  status,
  health,
  login,
  logout,
  pin,
  issue,
  get,
  backlog,
  exportCommand,
  verify,
  provision,
  store,
  token,
  terminal,
  audit,
  config,
  sandbox,
  replay,
  demo,
];

const jsonFlag = '--json';

/** The whole command line; man page and completion are made from it. */
export function parser(): Parser {
  const root = prepared(new Parser('ukeyctl'))
    .description('operates ukeyd: the service that owns a USB token and issues invoices')
    .version(version(), '-V, --version', 'print the version')
    .option(jsonFlag, 'answer with one JSON value on stdout')
    .configureHelp({ showGlobalOptions: true })
    .addHelpText('after', `\nExit status:\n${exitTable()}`);
  for (const command of commands) attach(root, command);
  return root;
}

function attach(above: Parser, command: Command | CommandGroup): void {
  const child = prepared(above.command(command.name)).copyInheritedSettings(above).description(command.summary);
  if (command.kind === 'group') {
    for (const one of command.commands) attach(child, one);
    return;
  }
  for (const argument of command.arguments ?? []) child.argument(argument.name, argument.description);
  for (const option of command.options ?? []) child.option(option.flags, option.description);
  child.addHelpText('after', `\nExamples:\n${command.examples.map((line) => `  ukeyctl ${line}\n`).join('')}`);
  child.action(async () => {
    const options: Record<string, unknown> = child.optsWithGlobals();
    await command.run(new Given(child.args, options), openScreen(options['json'] === true));
  });
}

/** Errors come back as exceptions and are printed in one place. */
function prepared(one: Parser): Parser {
  return one
    .exitOverride()
    .configureOutput({ writeErr: () => undefined })
    .allowExcessArguments(false);
}

function exitTable(): string {
  return Object.values(exitCodes)
    .map(({ status: code, meaning }) => `  ${code}  ${meaning}\n`)
    .join('');
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : 'unknown';
}

/** null: the parser has printed what was asked for (help, version). */
function parseFailure(thrown: unknown): Error | null {
  if (!(thrown instanceof CommanderError)) return endAs('internal', thrown);
  if (thrown.exitCode === 0) return null;
  if (thrown.code === 'commander.help') return usage('a command is needed', { action: 'See ukeyctl --help.' });
  return usage(parserWords(thrown));
}

/** What the parser says, without what it repeats: `--pin=1234` and `-p1234` are no options, and `1234` no command. */
function parserWords({ code, message }: CommanderError): string {
  const words = message.replace(/^error: /, '');
  if (code === 'commander.unknownCommand') return /^unknown command '[a-z-]+'(?=\n|$)/.exec(words)?.[0] ?? 'unknown command';
  if (code !== 'commander.unknownOption') return words.split('\n')[0] ?? '';
  const name = optionLetters(words.replace(/^[^']*'/, ''));
  return name === null ? 'unknown option' : `unknown option '${name}'`;
}

/** npm runs its scripts in the clone; the names of files that were typed are meant where they were typed. */
function goWhereTyped(): void {
  const { npm_lifecycle_script: script, INIT_CWD: folder } = process.env;
  if (folder !== undefined && script?.includes('daemon/ctl.ts') === true) process.chdir(folder);
}

/** Throws errors of ours alone. */
async function run(argv: readonly string[]): Promise<void> {
  try {
    await parser().parseAsync(argv, { from: 'user' });
  } catch (thrown) {
    const failure = parseFailure(thrown);
    if (failure !== null) throw failure;
  }
}

async function main(argv: readonly string[]): Promise<void> {
  goWhereTyped();
  watchOutput();
  try {
    await run(argv);
    await outputTaken();
  } catch (thrown) {
    process.exitCode = printFailure(openScreen(argv.includes(jsonFlag)), thrown);
  }
}

if (import.meta.main) await main(process.argv.slice(2));
