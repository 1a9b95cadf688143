// Owns: finding a state folder that a token has left behind: the configuration names another folder for it now (a token more, one less, another name).
// Why: the index there knows keys of documents that the FLASH no longer keeps, and what was proven against a ledger; begun anew elsewhere, a key might be issued
// a second time.
// Errors: invalid-request, with the folder.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';

/** What lies in a token's folder only. */
const ofToken = /^(index-.+\.sqlite|contradiction-.+\.json|mirror-.+\.img|pending-.+\.json|stored-pin-try\.json|audit-waiting\.json)$/;

/** `root`: the service's folder, in which tokens have theirs unless they say otherwise. `folders`: of the configured tokens. */
export function refuseLeftBehind(root: string, folders: readonly string[]): void {
  const below = readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  for (const folder of [root, ...below.map((entry) => path.join(root, entry.name))]) {
    if (folders.includes(folder) || !readdirSync(folder).some((name) => ofToken.test(name))) continue;
    throw new UkeyError('invalid-request', `the state folder ${folder} belongs to a token, and no token of the configuration has it`, {
      field: 'token.state',
      action: `Set state = "${folder}" in the table of the token that it belongs to, or move it away where that token is gone for good.`,
    });
  }
}
