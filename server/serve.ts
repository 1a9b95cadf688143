// Owns: the ticket server put together: data directory -> authority, database, TLS, HTTPS; closed in reverse. Tests and the sandbox start it in
// their own process; main.ts is the program around it.
// Invariants: nothing is listening before the database is open and bound to the authority; the public URL that is recorded stays until another one is
// asked for by name; of a data directory's own file one server alone is in charge, while a PostgreSQL database may have several.
import type { RecoveryTicket } from '#ipc-schema/recovery.ts';
import type { EnrolmentTicket } from '#ipc-schema/upstream.ts';
import { makeAccept } from './accept.ts';
import { openAuthority } from './authority.ts';
import type { Database } from './database.ts';
import { chooseDatabase, claimOwnFile } from './database-choice.ts';
import type { GrantOptions } from './grant.ts';
import { defaultWaits, type HttpWaits, listenHttps } from './http.ts';
import { faultText, type Log, noLog } from './log.ts';
import { makeRecoveryTicket, type RecoveryOptions } from './recovery.ts';
import { makeTicket, type TicketParts } from './ticket.ts';
import { openTlsIdentity } from './tls-identity.ts';

const tlsCheckMs = 12 * 3_600_000;

export interface ServerOptions {
  /** Data directory; made when missing. */
  readonly directory: string;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Default 0: any that is free. Charters name it, so a server with tokens keeps its port. */
  readonly port?: number;
  /** URL that tickets and charters carry from now on. Default: the one that is recorded; at the first start, where it listens. */
  readonly publicUrl?: string;
  readonly log?: Log;
  readonly wallMs?: () => number;
  readonly waits?: HttpWaits;
  /** URL of a PostgreSQL database to use from now on (database-choice.ts). */
  readonly databaseUrl?: string;
  /** Another database than the data directory's. */
  readonly database?: Database;
}

export interface RunningServer {
  /** Where it listens, as https URL. */
  readonly url: string;
  readonly publicUrl: string;
  readonly port: number;
  /** SHA-256 of the authority's certificate, hex. */
  readonly authorityFingerprint: string;
  /** DER. */
  readonly authorityCertificate: Uint8Array;
  createTicket(options: GrantOptions): Promise<EnrolmentTicket>;
  createRecoveryTicket(options: RecoveryOptions): Promise<RecoveryTicket>;
  close(): Promise<void>;
}

/** Authority and database of a data directory, without a server: for commands beside a running one. */
export async function openDirectory(options: ServerOptions): Promise<TicketParts> {
  const { directory, wallMs = Date.now, log = noLog } = options;
  const authority = await openAuthority(directory, wallMs());
  const { database, keep } =
    options.database === undefined
      ? await chooseDatabase(directory, options.databaseUrl, log)
      : { database: options.database, keep: () => undefined };
  try {
    await database.bindAuthority(authority.fingerprint);
    keep();
  } catch (thrown) {
    await database.close();
    throw thrown;
  }
  return { directory, authority, database, log, wallMs };
}

/** Throws busy where another server runs on the data directory's own file. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const parts = await openDirectory(options);
  let giveBack = (): void => undefined;
  try {
    if (options.database === undefined) giveBack = claimOwnFile(options.directory);
    const server = await listen(parts, options);
    return { ...server, close: () => server.close().finally(giveBack) };
  } catch (thrown) {
    giveBack();
    await parts.database.close();
    throw thrown;
  }
}

async function listen(parts: TicketParts, options: ServerOptions): Promise<RunningServer> {
  const { authority, database, directory, log, wallMs } = parts;
  const host = options.host ?? '127.0.0.1';
  const recorded = await database.publicUrl();
  const named = options.publicUrl ?? recorded;
  const hosts = [host, ...(named === null ? [] : [new URL(named).hostname])].filter((name) => !isAnyHost(name));
  const identity = await openTlsIdentity(directory, authority, hosts, wallMs());
  const routeParts = { ...parts, accept: makeAccept(parts) };
  const http = await listenHttps(routeParts, identity, { host, port: options.port ?? 0 }, options.waits ?? defaultWaits);
  const url = `https://${urlHost(host)}:${http.port}`;
  const publicUrl = named ?? url;
  if (publicUrl !== recorded) await database.setPublicUrl(publicUrl);
  tellPublicUrl(log, { url, publicUrl, recorded, isAsked: options.publicUrl !== undefined });
  const renewal = setInterval(() => {
    openTlsIdentity(directory, authority, hosts, wallMs()).then(
      (next) => http.renewTls(next),
      (thrown: unknown) => log('error', 'tls-not-renewed', { why: faultText(thrown) }),
    );
  }, tlsCheckMs);
  renewal.unref();
  log('info', 'listening', { url, publicUrl, authorityFingerprint: authority.fingerprint });
  return {
    url,
    publicUrl,
    port: http.port,
    authorityFingerprint: authority.fingerprint,
    authorityCertificate: authority.certificate,
    createRecoveryTicket: async (recovery) => await makeRecoveryTicket(parts, recovery),
    createTicket: async (grant) => await makeTicket(parts, grant, publicUrl),
    close: async () => {
      clearInterval(renewal);
      await http.close();
      await database.close();
      log('info', 'closed');
    },
  };
}

interface PublicUrl {
  readonly url: string;
  readonly publicUrl: string;
  readonly recorded: string | null;
  readonly isAsked: boolean;
}

/** What may be a mistake is said: enrolled tokens know the URL of their charters alone. */
function tellPublicUrl(log: Log, { url, publicUrl, recorded, isAsked }: PublicUrl): void {
  if (recorded !== null && recorded !== publicUrl)
    log('warn', 'public-url-changed', {
      publicUrl,
      recorded,
      why: 'new tickets and charters name it; tokens enrolled before keep the old one',
    });
  else if (!isAsked && publicUrl !== url)
    log('warn', 'public-url-kept', {
      ...{ publicUrl, url },
      why: `tickets and charters go on naming ${publicUrl}: lead it to ${url}, or change it on purpose with --public-url ${url}`,
    });
}

const isAnyHost = (host: string): boolean => host === '0.0.0.0' || host === '::';

function urlHost(host: string): string {
  if (isAnyHost(host)) return 'localhost';
  return host.includes(':') ? `[${host}]` : host;
}
