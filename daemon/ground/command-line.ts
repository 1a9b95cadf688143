// Owns: what follows `ukeyd` on the command line: --config, --help, and one flag for each key of the configuration.
// Invariants: a flag that is not known is refused with the nearest that is; what was typed besides is never repeated: it may have been a PIN.
// Pure.
import { parseArgs } from 'node:util';
import { UkeyError } from '#ipc-schema/errors.ts';
import { unknownName } from './config-layers.ts';
import { nearest, type Setting } from './settings.ts';

export interface CommandLine {
  readonly help: boolean;
  readonly config: string | undefined;
  /** What followed each flag of a key, by the flag's name without dashes. */
  readonly flags: Readonly<Record<string, string>>;
}

const action = 'See ukeyd --help.';

export function readCommandLine(settings: readonly Setting[], args: readonly string[]): CommandLine {
  const names = ['config', ...settings.map(({ flag }) => flag)];
  const options = Object.fromEntries([...names.map((name) => [name, { type: 'string' as const }]), ['help', { type: 'boolean' as const }]]);
  const { tokens } = parseArgs({ args: [...args], options, strict: false, tokens: true });
  const given: Record<string, string> = {};
  let help = false;
  for (const token of tokens) {
    if (token.kind !== 'option') throw new UkeyError('invalid-request', 'only flags are known here', { action });
    if (token.name === 'help') {
      help = true;
      continue;
    }
    if (!names.includes(token.name)) throw unknownFlag(token.rawName, names);
    if (token.value === undefined)
      throw new UkeyError('invalid-request', `${token.rawName} needs a value`, { field: token.rawName, action });
    given[token.name] = token.value;
  }
  const { config, ...flags } = given;
  return { help, config, flags };
}

/** What may be repeated of what begins like an option: `--pin` of `--pin:1234`, `-p` of `-p1234`; null: nothing. */
export function optionLetters(typed: string): string | null {
  return /^--[a-z]+(?:-[a-z]+)*|^-[A-Za-z]/.exec(typed)?.[0] ?? null;
}

function unknownFlag(typed: string, names: readonly string[]): UkeyError {
  const name = optionLetters(typed);
  if (name === null) return new UkeyError('invalid-request', 'one of the flags is not known', { action });
  const near = nearest(name.replace(/^-+/, ''), names);
  return unknownName(name, '', near === null ? null : `--${near}`, action);
}

export function usageText(settings: readonly Setting[], fileDefault: string): string {
  const width = Math.max(...settings.map(({ flag }) => flag.length));
  const lines = settings.map(({ flag, says, allowed }) => `  --${flag.padEnd(width)}  ${says} (${allowed})\n`);
  return [
    'Usage: ukeyd [--config FILE] [--KEY VALUE]...\n\n',
    `  --${'config'.padEnd(width)}  The configuration (default: $UKEYD_CONFIG, else ${fileDefault}), and conf.d/*.toml beside it\n`,
    ...lines,
    '\nEach key may also stand in the environment: --mirror-mode as UKEYD_MIRROR_MODE. A flag comes before the environment, that before the files.\n',
    'SIGHUP reads all of it again. ukeyctl config check shows what it comes to.\n',
  ].join('');
}
