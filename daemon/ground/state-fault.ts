// Owns: what it means where the system refuses the service a file or folder of its state: what is full or forbidden, and who does what about it.
// Pure.
import { getSystemErrorMap } from 'node:util';
import { UkeyError } from '#ipc-schema/errors.ts';

const full: readonly unknown[] = ['ENOSPC', 'EDQUOT'];
const forbidden: readonly unknown[] = ['EACCES', 'EPERM', 'EROFS'];
const misplaced: readonly unknown[] = ['EEXIST', 'ENOTDIR', 'ENOENT', 'ELOOP', 'ENAMETOOLONG'];

/** While the service runs: halted where the system says why it does not take the file; anything else as it was. */
export function stateFault(thrown: unknown, path: string): unknown {
  const action = actionFor(thrown, path);
  if (action === null || misplaced.includes(codeOf(thrown))) return thrown;
  return new UkeyError('halted', `${path} cannot be written: ${systemText(thrown)}`, { action, cause: thrown });
}

/** At the start, while the folder is made and locked: it is not one that the service can use. */
export function stateFolderFault(thrown: unknown, folder: string): unknown {
  const cause = thrown instanceof UkeyError ? thrown.cause : thrown;
  const action = actionFor(cause, folder);
  if (action === null) return thrown;
  return new UkeyError('invalid-request', `state: the folder ${folder} cannot be used: ${systemText(cause)}`, {
    field: 'state',
    action,
    cause,
  });
}

function actionFor(thrown: unknown, path: string): string | null {
  const code = codeOf(thrown);
  if (full.includes(code)) return `Make room on the file system that holds ${path}, then repeat.`;
  if (code === 'EROFS') return `Mount the file system that holds ${path} for writing, then repeat.`;
  if (forbidden.includes(code)) return `Give the service's user the right to ${path}, or name another state folder (state).`;
  return misplaced.includes(code) ? 'Name another state folder (state).' : null;
}

const codeOf = (thrown: unknown): unknown => (thrown instanceof Error ? (thrown as NodeJS.ErrnoException).code : undefined);

/** What the system says, without the call and its arguments. */
export function systemText(thrown: unknown): string {
  const { errno, code } = thrown as NodeJS.ErrnoException;
  if (code === 'EEXIST') return 'it is no folder'; // of mkdir(2)
  const said = errno === undefined ? undefined : getSystemErrorMap().get(errno)?.[1];
  return said ?? (thrown instanceof Error ? thrown.message : String(thrown));
}
