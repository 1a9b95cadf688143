// Owns: the enrolled terminals and their secrets: one file in the state folder, for the service's user alone, replaced whole.
// Invariants: a secret is answered once, at enrolment, and never listed or logged; the file is durable before the answer. No terminal is enrolled under a
// name by which the audit trail calls somebody else.
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { writeDurably } from '#ground/durable-file.ts';
import { notTerminals } from '#ipc-schema/audit.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { terminalRoles } from '#ipc-schema/methods.ts';
import { check, nameText, z } from '#ipc-schema/schema.ts';

const secretBytes = 32;
const terminalsMax = 1_000;
const fileMaxBytes = 256 * 1024;

const schema = z.strictObject({
  format: z.literal('ukey-terminals/1'),
  terminals: z
    .array(
      z.strictObject({
        terminal: nameText,
        role: z.enum(terminalRoles),
        token: nameText.optional(),
        secret: z.string().regex(/^[0-9a-f]{64}$/),
      }),
    )
    .max(terminalsMax),
});

type Role = (typeof terminalRoles)[number];
interface Known {
  readonly id: string;
  readonly role: Role;
  /** Name of the only token that it may use. */
  readonly token?: string | undefined;
  readonly secret: Uint8Array;
}

export class Terminals {
  readonly #file: string;
  readonly #known = new Map<string, Known>();

  /** Throws invalid-request when the file is not ours to read. */
  constructor(stateDirectory: string) {
    this.#file = path.join(stateDirectory, 'terminals.json');
    if (!existsSync(this.#file)) return;
    const content = check(schema, decodeJson(readFileSync(this.#file), { maxBytes: fileMaxBytes, maxDepth: 4 }));
    for (const { terminal, role, token, secret } of content.terminals)
      this.#known.set(terminal, { id: terminal, role, token, secret: Buffer.from(secret, 'hex') });
  }

  find(id: string): Known | null {
    return this.#known.get(id) ?? null;
  }

  list(): { terminal: string; role: Role; token?: string }[] {
    return [...this.#known.values()].map(({ id, role, token }) => ({ terminal: id, role, ...(token === undefined ? {} : { token }) }));
  }

  /** With `replace` one that is enrolled already gets a new secret; the old one is worth nothing from then on. */
  enrol(
    terminal: string,
    role: Role,
    { token, replace = false }: { readonly token?: string | undefined; readonly replace?: boolean | undefined } = {},
  ): { terminal: string; role: Role; token?: string; secret: string } {
    if (notTerminals.some((name) => name === terminal))
      throw new UkeyError('invalid-request', `the audit trail calls somebody else ${terminal}`, {
        field: 'terminal',
        action: 'Enrol it under another name.',
      });
    if (this.#known.has(terminal) && !replace)
      throw new UkeyError('invalid-request', `${terminal} is enrolled already`, {
        field: 'terminal',
        action: 'Take another name; or replace it (ukeyctl terminal enrol --replace), and the till that has its secret now is locked out.',
      });
    if (this.#known.size >= terminalsMax && !this.#known.has(terminal))
      throw new UkeyError('busy', 'no more terminals can be enrolled', { retryAfterMs: 1_000 });
    const secret = randomBytes(secretBytes);
    this.#replace(new Map(this.#known).set(terminal, { id: terminal, role, token, secret }));
    return { terminal, role, ...(token === undefined ? {} : { token }), secret: secret.toString('hex') };
  }

  remove(terminal: string): { terminal: string } {
    const left = new Map(this.#known);
    if (!left.delete(terminal)) throw new UkeyError('not-found', 'there is no such terminal', { field: 'terminal' });
    this.#replace(left);
    return { terminal };
  }

  #replace(next: ReadonlyMap<string, Known>): void {
    const terminals = [...next.values()].map(({ id, role, token, secret }) => ({
      terminal: id,
      role,
      token,
      secret: Buffer.from(secret).toString('hex'),
    }));
    writeDurably(this.#file, JSON.stringify({ format: 'ukey-terminals/1', terminals }));
    this.#known.clear();
    for (const [id, known] of next) this.#known.set(id, known);
  }
}
