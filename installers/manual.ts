// Owns: the man pages of ukeyctl and of the configuration, and the bash completion, made from the very command line and keys that the programs know.
// Invariants: pure; whatever they know is in them, and nothing else.
import { exitCodes } from '#ctl/exit-codes.ts';
import { parser } from '#daemon/ctl.ts';
import { configFileDefault } from '#ground/config.ts';
import type { Setting } from '#ground/settings.ts';

type Parser = ReturnType<typeof parser>;

/** `token probe` and its parser; only what can be run. */
interface Leaf {
  readonly words: readonly string[];
  readonly command: Parser;
}

function leavesOf(command: Parser, words: readonly string[] = []): readonly Leaf[] {
  if (command.commands.length === 0) return [{ words, command }];
  return command.commands.flatMap((child) => leavesOf(child as Parser, [...words, child.name()]));
}

// ---- Manual page (man-pages(7), groff_man(7))

const roff = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^([.'])/gm, '\\&$1');

export function manualText(version: string, date: string): string {
  const root = parser();
  const lines = [
    `.TH UKEYCTL 1 ${date} "ukeyd ${roff(version)}" "User Commands"`,
    ...['.SH NAME', 'ukeyctl \\- operate the service that owns a USB token and issues invoices'],
    ...['.SH SYNOPSIS', '.B ukeyctl', '.RI [ options ]', '.I command', '.RI [ arguments ]'],
    ...[
      '.SH DESCRIPTION',
      `${roff('Talks to ukeyd(8) through its local sockets. Secrets come from files, a prompt or the standard input, never from an option.')}`,
    ],
    ...['.SH OPTIONS', ...optionLines(root)],
    ...['.SH COMMANDS', ...leavesOf(root).flatMap(commandLines)],
    ...['.SH EXIT STATUS', ...Object.values(exitCodes).flatMap(({ status, meaning }) => ['.TP', `.B ${status}`, roff(meaning)])],
    ...['.SH ENVIRONMENT', '.TP', '.B UKEYD_ADMIN_SOCKET\\fR, \\fBUKEYD_SOCKET', 'the sockets, where no \\fB\\-\\-socket\\fR names one'],
    ...['.SH SEE ALSO', '.BR ukeyd (8),', '.BR ukeyd.toml (5)'],
  ];
  return `${lines.join('\n')}\n`;
}

function commandLines({ words, command }: Leaf): readonly string[] {
  const places = command.registeredArguments.map((argument) => (argument.required ? `<${argument.name()}>` : `[${argument.name()}]`));
  return [
    `.SS ${roff(['ukeyctl', ...words, ...places].join(' '))}`,
    roff(command.description()),
    ...command.registeredArguments.flatMap((argument) => ['.TP', `.I ${roff(argument.name())}`, roff(argument.description)]),
    ...optionLines(command),
  ];
}

function optionLines(command: Parser): readonly string[] {
  return command.options.flatMap((option) => ['.TP', `.B ${roff(option.flags)}`, roff(option.description)]);
}

export function configManualText(settings: readonly Setting[], version: string, date: string): string {
  const lines = [
    `.TH UKEYD.TOML 5 ${date} "ukeyd ${roff(version)}" "File Formats"`,
    ...['.SH NAME', `ukeyd.toml \\- configuration of ukeyd, in ${roff(configFileDefault)}`],
    '.SH DESCRIPTION',
    roff('A TOML file. Unknown keys are refused. Relative paths are taken from its folder. No secret stands in it, only where one is.'),
    roff('conf.d/*.toml beside it is read after it, in the order of the names; then the environment, then the flags of ukeyd(8).'),
    roff('`ukeyctl config check` shows what it comes to, and where each value was given.'),
    ...['.SH KEYS', ...settings.flatMap(settingLines)],
    ...['.SH SEE ALSO', '.BR ukeyd (8),', '.BR ukeyctl (1)'],
  ];
  return `${lines.join('\n')}\n`;
}

function settingLines({ key, environment, flag, says, allowed, fallback, live }: Setting): readonly string[] {
  const remarks = [
    allowed,
    fallback === undefined ? 'no default' : `default ${JSON.stringify(fallback)}`,
    ...(live === true ? ['taken up at a reload'] : []),
  ];
  return ['.TP', `.B ${roff(key)}`, roff(`${says} (${remarks.join('; ')})`), roff(`${environment}, --${flag}`)];
}

// ---- Completion (bash, programmable completion)

export function completionText(): string {
  const root = parser();
  const global = root.options.flatMap((option) => [option.short, option.long]).filter((flag) => flag !== undefined && flag !== null);
  const cases = allOf(root).map(({ words, command }) => {
    const own = command.options.map((option) => option.long).filter((flag) => flag !== null && flag !== undefined);
    const children = command.commands.map((child) => child.name());
    return `    '${words.join(' ')}') words='${[...children, ...own, ...global, '--help'].join(' ')}' ;;`;
  });
  const valued = new Set(
    allOf(root).flatMap(({ command }) => command.options.filter((option) => option.required).map((option) => option.long)),
  );
  const groups = allOf(root).filter(({ words, command }) => words.length > 0 && command.commands.length > 0);
  return `# bash completion for ukeyctl; made from its command line
_ukeyctl() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} path='' word words='' at
  for ((at = 1; at < COMP_CWORD; at++)); do
    word=\${COMP_WORDS[at]}
    case $word in -*) continue ;; esac
    case \${COMP_WORDS[at-1]} in
      ${[...valued].join(' | ')}) continue ;;
    esac
    case $path in
      '') path=$word ;;
      ${groups.map(({ words }) => `'${words.join(' ')}'`).join(' | ')}) path="$path $word" ;;
    esac
  done
  case $previous in
    ${[...valued].join(' | ')}) COMPREPLY=($(compgen -f -- "$current")); return ;;
  esac
  case $path in
${cases.join('\n')}
  esac
  case $current in
    -*) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current")) ;;
  esac
}
complete -o filenames -F _ukeyctl ukeyctl
`;
}

function allOf(command: Parser, words: readonly string[] = []): readonly Leaf[] {
  return [{ words, command }, ...command.commands.flatMap((child) => allOf(child as Parser, [...words, child.name()]))];
}
