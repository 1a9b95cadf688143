// Owns: the fault-injecting PKCS#11 module of test/token/shim for tests: compiled when it is asked for, and told what to do while a holder runs it.
// Invariants: the rules file is replaced as a whole, so that a running module never reads half of it; the environment is set for this process, and
// so for the holder processes that it starts, until `remove`.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export type CallName = `C_${string}`;
export type Fault =
  | { readonly kind: 'ckr'; readonly value: number }
  | { readonly kind: 'empty' | 'wrong' | 'segv' | 'close' | 'gone' }
  | { readonly kind: 'sleep'; readonly waitMs: number }
  | { readonly kind: 'flags'; readonly flags: number };
export interface Rule {
  readonly on: CallName;
  readonly fault: Fault;
  /** Calls that pass first; default 0. */
  readonly skip?: number;
  /** Calls after those that the rule looks at; default all. */
  readonly times?: number;
  /** Of those only each so manieth is hit; default each. */
  readonly every?: number;
}

/** In the order of the module's state file: that of CK_FUNCTION_LIST. */
const counted: Readonly<Record<string, number>> = { C_Initialize: 0, C_SetPIN: 11, C_OpenSession: 12, C_Login: 18, C_Sign: 43 };
const countsAtBytes = 4 + 64 * 4;

/** Whether a compiler is here. */
export function hasCompiler(): boolean {
  try {
    execFileSync('gcc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

export class FaultyModule {
  readonly folder = mkdtempSync(join(tmpdir(), 'ukeyd-shim-'));
  readonly path = join(this.folder, 'faulty-pkcs11.so');
  /** For a process that does not inherit this one's. */
  readonly environment: { readonly FAULTY_MODULE: string; readonly FAULTY_RULES: string };
  readonly #rules = join(this.folder, 'rules');
  #generation = 0;

  constructor(realModule: string) {
    const source = new URL('../token/shim/faulty-pkcs11.c', import.meta.url).pathname;
    execFileSync('gcc', ['-std=gnu11', '-O1', '-shared', '-fPIC', '-fvisibility=hidden', '-o', this.path, source, '-ldl']);
    this.calm();
    this.environment = { FAULTY_MODULE: realModule, FAULTY_RULES: this.#rules };
    Object.assign(process.env, this.environment);
  }

  /** From the next call on, instead of what was said before. */
  obey(...rules: readonly Rule[]): void {
    this.#generation += 1;
    const lines = rules.map(({ on, fault, skip = 0, times = 0, every = 0 }) => {
      const value = fault.kind === 'ckr' ? fault.value : fault.kind === 'sleep' ? fault.waitMs : fault.kind === 'flags' ? fault.flags : 0;
      return `${on} ${fault.kind} ${value} ${skip} ${times} ${every}`;
    });
    writeFileSync(`${this.#rules}.new`, `${[this.#generation, ...lines].join('\n')}\n`);
    renameSync(`${this.#rules}.new`, this.#rules);
  }

  calm(): void {
    this.obey();
  }

  /** Calls of the function so far, by all processes. */
  calls(of: keyof typeof counted & string): number {
    const at = counted[of];
    if (at === undefined) throw new Error(`${of} is not counted here`);
    const file = `${this.#rules}.state`;
    return existsSync(file) ? readFileSync(file).readUInt32LE(countsAtBytes + 4 * at) : 0;
  }

  /** How often the rule of this place was asked since `obey`. */
  asked(rule = 0): number {
    const file = `${this.#rules}.state`;
    if (!existsSync(file)) return 0;
    const state = readFileSync(file);
    return state.readUInt32LE(0) === this.#generation ? state.readUInt32LE(4 + 4 * rule) : 0;
  }

  remove(): void {
    delete process.env['FAULTY_MODULE'];
    delete process.env['FAULTY_RULES'];
    rmSync(this.folder, { recursive: true, force: true });
  }
}
