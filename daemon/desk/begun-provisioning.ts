// Owns: the note that a provisioning has begun, in the state folder: which ticket, and which token once it has its keys.
// Invariants: written before keys are made, so that a token with keys and without a FLASH may be provisioned again only where that very provisioning was
// interrupted: of any other one the FLASH is lost, and its ledger must not be buried under a new one. The ticket's code stands in it as a hash.
import { createHash } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { writeDurably } from '#ground/durable-file.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check, z } from '#ipc-schema/schema.ts';

const noteSchema = z.strictObject({
  format: z.literal('ukey-provisioning/1'),
  codeHash: z.string(),
  /** Hex; null: it has no keys yet, or the service died while they were made. */
  tokenId: z.string().nullable(),
});
type Note = z.infer<typeof noteSchema>;

export class BegunProvisioning {
  readonly #file: string;
  readonly #codeHash: string;
  readonly #before: Note | null;

  constructor(stateDirectory: string, code: string) {
    this.#file = path.join(stateDirectory, 'begun-provisioning.json');
    this.#codeHash = createHash('sha256').update(code).digest('hex');
    this.#before = this.#read();
  }

  /** Tokens with keys that may be provisioned again. `pending`: the one that an enrolment waits for, or null. */
  mayRepeat(pending: string | null): 'any' | readonly string[] {
    const before = this.#before;
    // It died while keys were made: whose they are nobody knows; the same ticket is as good as a name.
    if (before?.tokenId === null && before.codeHash === this.#codeHash) return 'any';
    return [pending, before?.tokenId ?? null].filter((id) => id !== null);
  }

  begin(): void {
    // Also where one is there: it may have been read from a cache and never have reached the disk.
    if (this.#before === null) this.#write(null);
    else writeDurably(this.#file, JSON.stringify(this.#before));
  }

  /** Nothing was made after all. */
  takeBack(): void {
    if (this.#before === null) this.end();
  }

  hasKeys(tokenId: string): void {
    this.#write(tokenId);
  }

  end(): void {
    rmSync(this.#file, { force: true });
  }

  #write(tokenId: string | null): void {
    writeDurably(this.#file, JSON.stringify({ format: 'ukey-provisioning/1', codeHash: this.#codeHash, tokenId } satisfies Note));
  }

  #read(): Note | null {
    try {
      return check(noteSchema, decodeJson(readFileSync(this.#file)));
    } catch (error) {
      if (error instanceof UkeyError || (error as NodeJS.ErrnoException).code === 'ENOENT') return null; // none, or none that says anything
      throw error;
    }
  }
}
