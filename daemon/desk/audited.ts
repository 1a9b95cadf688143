// Owns: which calls are noted in the audit trail: the errands of the table `auditedMethods`, each with who asked and how it went.
// Invariants: an errand is done first and noted then, and answers the same whether or not it could be noted; parameters stay out of a record, but for the
// name of a terminal. A login that found the token open, and a question to store.mend without a PIN, have tried nothing: they are not noted.
import { type AuditedMethod, auditedMethods } from '#ipc-schema/audit.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';
import type { Audit } from './audit.ts';

interface Asker {
  /** The terminal's name, or `admin`. */
  readonly label: string;
}
type Errand = (caller: Asker, params: object) => Promise<object>;

/** The same handlers; those of them that are audited note what they did. */
export function audited<H extends object>(audit: Pick<Audit, 'note'>, handlers: H): H {
  const reading = new ReadingRuns();
  const noting = auditedMethods.flatMap((what) => {
    if (!(what in handlers)) return [];
    // What the schema of a method has let through is what its handler takes: serve() sees to that.
    const errand = (handlers as Readonly<Record<string, Errand>>)[what] as Errand;
    const noted = async (caller: Asker, params: object): Promise<object> => {
      const note = { what, who: caller.label, ...namedTerminal(params) };
      try {
        const answer = await errand(caller, params);
        const more = what === 'ledger.read' ? reading.beginning(caller.label, answer as Result<'ledger.read'>) : {};
        if (more !== null && isTried(what, params, answer)) audit.note({ ...note, ...more, outcome: 'done' });
        return answer;
      } catch (thrown) {
        if (what !== 'ledger.read' && isTried(what, params, {})) audit.note({ ...note, outcome: asUkeyError(thrown).code });
        throw thrown;
      }
    };
    return [[what, noted] as const];
  });
  return { ...handlers, ...Object.fromEntries(noting) };
}

function namedTerminal(params: object): { terminal?: string } {
  return 'terminal' in params && typeof params.terminal === 'string' ? { terminal: params.terminal } : {};
}

function isTried(what: AuditedMethod, params: object, answer: object): boolean {
  if (what === 'session.login') return !('checked' in answer && answer.checked === false);
  return what !== 'store.mend' || 'pin' in params;
}

/** Pages that follow one another are one run: of each the beginning is told. A caller that only waits for news begins none. */
class ReadingRuns {
  /** By caller: the batch with which its run goes on. */
  readonly #next = new Map<string, number>();

  /** null: no run begins with this page. */
  beginning(who: string, { batches }: Result<'ledger.read'>): { fromBatch: number } | null {
    const [first] = batches;
    const last = batches.at(-1);
    if (first === undefined || last === undefined) return null;
    const isNew = this.#next.get(who) !== first.batchIndex;
    this.#next.set(who, last.batchIndex + 1);
    return isNew ? { fromBatch: first.batchIndex } : null;
  }
}
