// Owns: the URL that names a PostgreSQL database, and the password file: what libpq knows of both and is needed here, read by the same rules.
//   postgres://USER@HOST:PORT/NAME?sslrootcert=FILE&passfile=FILE        through the network
//   postgres:///NAME?host=/run/postgresql&user=USER                      through a socket of this machine
// Invariants: no password in a URL: it would stand in lists of processes, histories and logs. To another machine only through TLS that is verified,
// unless the URL says `sslmode=disable`. A parameter that is not known is refused: what it was to protect would not be protected.
// Must not: repeat the URL in an error before it is known to hold no password.
import { UkeyError } from '#ipc-schema/errors.ts';

export interface PostgresPlace {
  /** Name, address, or folder of the socket. */
  readonly host: string;
  readonly port: number;
  readonly database: string;
  /** Null: whoever runs this process. */
  readonly user: string | null;
  /** `verified`: the server's name and its certificate's chain. */
  readonly tls: 'none' | 'verified';
  /** File with the certificates of those who may vouch for the server; null: the system's. */
  readonly rootCertFile: string | null;
  readonly passFile: string | null;
}

const defaultPort = 5432;
const defaultSocketFolder = '/run/postgresql';
const parameters = ['host', 'port', 'user', 'sslmode', 'sslrootcert', 'passfile'] as const;

export const isPostgresUrl = (text: string): boolean => /^postgres(ql)?:\/\//.test(text);

/** Throws invalid-request. */
export function parsePostgresUrl(text: string): PostgresPlace {
  if (!isPostgresUrl(text) || !URL.canParse(text)) throw wrong('is not of the form postgres://USER@HOST:PORT/NAME');
  const url = new URL(text);
  const { searchParams: query } = url;
  if (url.password !== '' || query.has('password'))
    throw wrong(
      'holds a password, which every user of this machine can read: write it into a file of mode 0600 (passfile=FILE, or PGPASSFILE)',
    );
  const unknown = [...query.keys()].find((name) => !parameters.some((known) => known === name));
  if (unknown !== undefined) throw wrong(`has the parameter ${unknown}, which is none of ${parameters.join(', ')}`);
  const database = decodeURIComponent(url.pathname.slice(1));
  if (database === '' || database.includes('/')) throw wrong('names no database');
  const host = decodeURIComponent(query.get('host') ?? url.hostname.replace(/^\[(.*)\]$/, '$1')) || defaultSocketFolder;
  if (!/^(\/[^,]*|[A-Za-z0-9._:-]+)$/.test(host)) throw wrong('names no single host');
  const port = Number(query.get('port') ?? (url.port === '' ? defaultPort : url.port));
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw wrong('has no right port');
  return {
    host,
    port,
    database,
    user: decodeURIComponent(query.get('user') ?? url.username) || null,
    tls: tlsOf(query.get('sslmode'), host),
    rootCertFile: query.get('sslrootcert'),
    passFile: query.get('passfile'),
  };
}

export const isSocketFolder = (host: string): boolean => host.startsWith('/');

function tlsOf(mode: string | null, host: string): PostgresPlace['tls'] {
  if (isSocketFolder(host)) return 'none';
  switch (mode) {
    case 'disable':
      return 'none';
    case 'verify-full':
      return 'verified';
    case null:
      return ['localhost', '127.0.0.1', '::1'].includes(host) ? 'none' : 'verified';
    default:
      throw wrong('has another sslmode than verify-full or disable');
  }
}

/** Four fields, in which a colon is escaped, and the password to the end of the line. */
const passwordLine = /^((?:\\.|[^\\:])*):((?:\\.|[^\\:])*):((?:\\.|[^\\:])*):((?:\\.|[^\\:])*):(.+)$/;

/** The password that a password file has for this place, or null (PostgreSQL's manual, "The Password File"). */
export function passwordIn(text: string, { host, port, database, user }: PostgresPlace & { readonly user: string }): string | null {
  const wanted = [isSocketFolder(host) ? 'localhost' : host, String(port), database, user];
  for (const line of text.split(/\r?\n/)) {
    const fields = line.startsWith('#') ? null : passwordLine.exec(line);
    if (fields === null) continue;
    const [first = '', ...rest] = fields.slice(1).map((field) => field.replaceAll(/\\(.)/g, '$1'));
    const names = [isSocketFolder(host) && first === host ? 'localhost' : first, ...rest];
    if (wanted.every((value, at) => names[at] === '*' || names[at] === value)) return rest.at(-1) ?? null;
  }
  return null;
}

function wrong(why: string): UkeyError {
  return new UkeyError('invalid-request', `the database's URL ${why}`, { field: 'database' });
}
