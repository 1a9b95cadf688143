// Owns: the commented example of the configuration: every key with what it is for, what may stand there, and its default. Made from the schema, so that
// none can be missing; service-files/ukeyd.toml is this text, and a test says when it is stale.
// Pure.
import type { Setting } from './settings.ts';

const widthColumns = 120;
const introduction = [
  'Configuration of ukeyd: /etc/ukeyd/ukeyd.toml. A key behind a # has the value that is shown, or, where "no default" is said, none. Needed are module and flash of the token.',
  'conf.d/*.toml beside this file is read after it, in the order of the names; then the environment (mirror.mode is UKEYD_MIRROR_MODE), then the flags of the command line ' +
    '(--mirror-mode). What comes later goes before. "ukeyctl config check" shows what it comes to, and where each value was given.',
  'Relative paths are taken from the folder of this file. "(reload)": taken up at systemctl reload; all else at the next start.',
];

export function exampleText(settings: readonly Setting[]): string {
  const lines = introduction.flatMap((paragraph) => comment(paragraph));
  let table = '';
  for (const setting of settings) {
    // A table in a table is written as dotted keys: its header, standing there by itself, would say that the table is given.
    const [header, name] = setting.key.includes('.')
      ? [setting.key.split('.')[0] ?? '', setting.key.replace(/^\w+\./, '')]
      : ['', setting.key];
    lines.push('');
    if (header !== table) lines.push(`[${header}]`);
    table = header;
    lines.push(...comment(`${setting.says} (${remarks(setting).join('; ')})`), `#${name} = ${valueText(setting)}`);
  }
  return `${lines.join('\n')}\n`;
}

function remarks({ allowed, fallback, live }: Setting): string[] {
  return [allowed, ...(fallback === undefined ? ['no default'] : []), ...(live === true ? ['reload'] : [])];
}

function valueText({ fallback, example }: Setting): string {
  return JSON.stringify(fallback ?? example); // a TOML basic string takes JSON's escapes
}

function comment(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + 1 + word.length > widthColumns) {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
