// Owns: what the person who starts the server, or runs a command beside it, is told of a fault that a person can mend: one sentence, and what to do.
// Invariants: nothing of a stack; what is not known here is a fault of the program and belongs into the log, whole (null).
import { getSystemErrorMap } from 'node:util';
import { type ErrorCode, errorTable, UkeyError } from '#ipc-schema/errors.ts';

export interface PlainFault {
  readonly why: string;
  readonly action: string;
}

/** In the place of the table's sentences, which speak to a till. Null: see what caused it. */
const serverActions: Partial<Record<ErrorCode, string>> = {
  'invalid-request': 'Correct what is named, and start again.',
  busy: 'Repeat once it is free.',
  forbidden: 'Correct the password file, or the URL that names it (docs/postgresql.md).',
  halted: 'Use a folder and a database that belong together, as docs/postgresql.md sets them up.',
};

export function plainFault(error: UkeyError): PlainFault | null {
  const isOwn = error.action !== errorTable[error.code].action;
  const action = isOwn ? error.action : serverActions[error.code];
  if (action !== undefined) return { why: whyOf(error), action };
  for (const cause of causesOf(error)) {
    const known = listenFault(cause) ?? fileFault(cause) ?? sqliteFault(cause) ?? postgresFault(cause);
    if (known !== null) return known;
  }
  return null;
}

/** Of the way to PostgreSQL, what the system said. */
function whyOf(error: UkeyError): string {
  const { cause } = error;
  if (error.code !== 'busy' || !(cause instanceof Error) || cause instanceof UkeyError || 'errcode' in cause) return error.message;
  return `${error.message}: ${cause.message === '' ? String((cause as NodeJS.ErrnoException).code) : cause.message}`;
}

/** What any of these errors may carry. */
interface Carried {
  readonly message: string;
  readonly code?: unknown;
  readonly errno?: number;
  readonly syscall?: string;
  readonly path?: string;
  readonly address?: string;
  readonly port?: number;
  readonly hostname?: string;
  readonly errcode?: unknown;
  readonly severity?: unknown;
}

function* causesOf(error: UkeyError): Generator<Carried> {
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) yield cause;
}

function listenFault({ code, syscall, address, port, hostname }: Carried): PlainFault | null {
  if (syscall === 'getaddrinfo')
    return { why: `--listen: the name ${hostname} leads to no address`, action: 'Name an address of this machine with --listen.' };
  if (syscall !== 'listen' && syscall !== 'bind') return null;
  const place = `${address?.includes(':') === true ? `[${address}]` : address}:${port}`;
  switch (code) {
    case 'EADDRINUSE':
      return { why: `another program listens on ${place}`, action: 'Stop it, or name another port with --listen.' };
    case 'EADDRNOTAVAIL':
      return { why: `${address} is no address of this machine`, action: 'Name one of its addresses with --listen, or 0.0.0.0 for all.' };
    case 'EACCES':
      return { why: `there is no right to listen on ${place}`, action: 'Name a port from 1024 on with --listen.' };
    default:
      return { why: `listening on ${place} failed: ${String(code)}`, action: 'Name another address or port with --listen.' };
  }
}

const draftEnding = /\.\d+\.[0-9a-f]{12}\.draft$/;
const accessAction = 'Give the user that runs this the right to it, or name another place.';

function fileFault({ code, errno, path }: Carried): PlainFault | null {
  if (typeof code !== 'string' || path === undefined || errno === undefined) return null;
  const file = path.replace(draftEnding, '');
  const said = getSystemErrorMap().get(errno)?.[1] ?? code;
  switch (code) {
    case 'EEXIST':
      return { why: `${file} is there already, and no folder`, action: 'Name another one.' };
    case 'ENOTDIR':
    case 'ENOENT':
    case 'EISDIR':
    case 'ELOOP':
    case 'ENAMETOOLONG':
      return { why: `${file} cannot be used: ${said}`, action: 'Correct the name.' };
    case 'EACCES':
    case 'EPERM':
      return { why: `${file} cannot be used: ${said}`, action: accessAction };
    case 'EROFS':
      return {
        why: `${file} cannot be written: its file system is mounted read-only`,
        action: 'Mount it for writing, or name another place.',
      };
    case 'ENOSPC':
    case 'EDQUOT':
      return { why: `${file} cannot be written: ${said}`, action: 'Make room on its file system, then repeat.' };
    default:
      return null;
  }
}

/** https://www.sqlite.org/rescode.html */
const sqliteFaults: Readonly<Record<number, PlainFault>> = {
  5: { why: 'the database file is in use', action: 'Repeat once whoever uses it has ended.' },
  8: { why: 'the database file cannot be written', action: accessAction },
  11: { why: 'the database file is damaged', action: 'Put the folder back from its backup.' },
  13: { why: 'there is no room for the database file', action: 'Make room on its file system, then repeat.' },
  14: { why: 'the database file cannot be opened', action: accessAction },
  26: { why: 'tickets.db is no database', action: 'Put the folder back from its backup, or name another one with --dir.' },
};

function sqliteFault({ errcode }: Carried): PlainFault | null {
  return typeof errcode === 'number' ? (sqliteFaults[errcode & 0xff] ?? null) : null;
}

/** PostgreSQL, appendix A: who asks is not let in, there is no such database, or no right to its tables. */
function postgresFault({ code, severity, message }: Carried): PlainFault | null {
  if (typeof code !== 'string' || typeof severity !== 'string' || !/^(28...|3D000|3F000|42501)$/.test(code)) return null;
  return { why: `PostgreSQL refuses: ${message}`, action: 'Correct the URL, or what the database allows (docs/postgresql.md).' };
}
