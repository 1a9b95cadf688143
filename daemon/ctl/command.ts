// Owns: what a command of ukeyctl is: its names, options and examples as data, and one function. `ctl.ts` turns the data into a
// parser and help; commands never see that parser.
// Invariants: an option that could hold a secret does not exist: secrets come from files, stdin or a prompt (prompt.ts).
// Must not: know any command.
import { usage } from '#ctl/exit-codes.ts';
import type { Screen } from '#ctl/screen.ts';

export interface OptionSpec {
  /** As `--socket <path>` or `--erase`. */
  readonly flags: string;
  readonly description: string;
}

export interface ArgumentSpec {
  /** As `<file>` (needed) or `[file]`. */
  readonly name: string;
  readonly description: string;
}

export interface Command {
  readonly kind: 'command';
  readonly name: string;
  readonly summary: string;
  readonly arguments?: readonly ArgumentSpec[];
  readonly options?: readonly OptionSpec[];
  /** Whole command lines, without `ukeyctl`. */
  readonly examples: readonly string[];
  run(given: Given, screen: Screen): Promise<void>;
}

export interface CommandGroup {
  readonly kind: 'group';
  readonly name: string;
  readonly summary: string;
  readonly commands: readonly Command[];
}

/** What was typed after the command's name. */
export class Given {
  readonly #arguments: readonly string[];
  readonly #options: Readonly<Record<string, unknown>>;

  constructor(args: readonly string[], options: Readonly<Record<string, unknown>>) {
    this.#arguments = args;
    this.#options = options;
  }

  argument(at: number): string | undefined {
    return this.#arguments[at];
  }

  /** For arguments that the parser has asked for. */
  needArgument(at: number): string {
    const value = this.#arguments[at];
    if (value === undefined) throw usage('an argument is missing');
    return value;
  }

  /** Value of `--secret-file X` as text('secretFile'). */
  text(name: string): string | undefined {
    const value = this.#options[name];
    return typeof value === 'string' ? value : undefined;
  }

  needText(name: string): string {
    const value = this.text(name);
    if (value === undefined) throw usage(`${flagOf(name)} is needed`, { field: flagOf(name) });
    return value;
  }

  flag(name: string): boolean {
    return this.#options[name] === true;
  }
}

/** `secretFile` -> `--secret-file`. */
export function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
