// Owns: `ukeyctl config`: what a configuration comes to, without a service, and the commented example to begin with.
// Invariants: it reads what the service would read (files, environment, flags), in the environment of whoever asks; no secret can be shown, because none
// is a value there.
import type { Command, CommandGroup, Given as Typed } from '#ctl/command.ts';
import { endingAs } from '#ctl/exit-codes.ts';
import { table } from '#ctl/screen.ts';
import { configFileDefault, type InForce, inForce, loadConfig, settings } from '#ground/config.ts';
import { exampleText } from '#ground/config-example.ts';

const check: Command = {
  kind: 'command',
  name: 'check',
  summary: 'whether a configuration is right, what it comes to, and where each value was given; asks no service',
  options: [
    { flags: '--config <file>', description: `the configuration (default: $UKEYD_CONFIG, else ${configFileDefault})` },
    ...settings.map(({ flag, key }) => ({ flags: `--${flag} <value>`, description: `as ukeyd would be given it: ${key}` })),
  ],
  examples: ['config check', 'config check --config ./ukeyd.toml', 'config check --mirror-mode async --json'],
  async run(given, screen) {
    const found = await endingAs('usage', () =>
      loadConfig({ file: given.text('config'), environment: process.env, flags: flagsOf(given) }),
    );
    const rows = inForce(found);
    screen.answer({ file: found.file, settings: rows.map(rowJson) }, table(['KEY', 'VALUE', 'FROM'], rows.map(rowText)));
  },
};

const example: Command = {
  kind: 'command',
  name: 'example',
  summary: 'a commented configuration with every key and its default',
  examples: ['config example > ukeyd.toml'],
  async run(_given, screen) {
    const text = exampleText(settings);
    if (screen.json) screen.answer({ text }, text);
    else screen.exact(text);
  },
};

export const config: CommandGroup = {
  kind: 'group',
  name: 'config',
  summary: 'the configuration of the service',
  commands: [check, example],
};

function flagsOf(given: Typed): Record<string, string> {
  const typed = settings.map(({ flag }): [string, string | undefined] => [flag, given.text(camelCase(flag))]);
  return Object.fromEntries(typed.filter((pair): pair is [string, string] => pair[1] !== undefined));
}

/** As the parser names an option. */
function camelCase(flag: string): string {
  return flag.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function rowJson({ key, value, origin }: InForce): object {
  return { key, value: value ?? null, from: origin ?? { kind: 'default' } };
}

function rowText({ key, value, origin }: InForce): string[] {
  const text = value === undefined ? '-' : Array.isArray(value) ? `[${value.map(String).join(', ')}]` : String(value);
  return [key, text, origin?.text ?? (value === undefined ? '' : 'default')];
}
