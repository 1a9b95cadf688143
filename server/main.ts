// Owns: the ticket server as a program: arguments, signals, exit codes.
//   node server/main.ts --dir DIR [--listen HOST:PORT] [--public-url URL] [--database URL]
//                                                                             serves until SIGTERM or SIGINT; one JSON line when ready
//   node server/main.ts ticket --dir DIR --charter FILE.json [--file OUT]     makes an enrolment ticket, also while the server runs
//   node server/main.ts recover --dir DIR --token ID [--file OUT]             makes a recovery ticket for a token that died
//   node server/main.ts move --dir DIR --database URL                        what the folder keeps in a file goes into PostgreSQL
//   node server/main.ts settle-alarm --dir DIR --token ID --note TEXT         a person has dealt with the token's alarms
// Exit codes: 0 done, 1 a fault, 2 wrong use, or a charter file or database URL that is not right. Listens on 127.0.0.1 unless told otherwise (http.ts says why).
// Invariants: what the person who typed the command can mend is a sentence and what to do; a fault of the server is a JSON line for its log.
// An enrolment code goes to the file (0600) or to standard output, never into a log or an argument.
import { existsSync, readFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { parseArgs } from 'node:util';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { createNew } from './key-file.ts';
import { faultText, outliveStreams, stderrLog } from './log.ts';
import { plainFault } from './plain-fault.ts';
import { recover } from './recover-command.ts';
import { openDirectory, startServer } from './serve.ts';
import { makeTicket } from './ticket.ts';

const usage = `usage: ticket-server --dir DIR [--listen HOST:PORT] [--public-url URL] [--database URL]
       ticket-server ticket --dir DIR --charter FILE.json [--file OUT]
       ticket-server settle-alarm --dir DIR --token ID --note TEXT
       ticket-server move --dir DIR --database URL
       ticket-server recover --dir DIR --token ID [--supersede] [--file OUT]
       ticket-server recover --dir DIR --token ID --recovery-key FILE`;

const help = `${usage}

The first serves until SIGTERM or SIGINT and writes one JSON line when it is ready.
  --dir DIR            the server's keys and database; made when missing
  --listen HOST:PORT   where to listen (default 127.0.0.1 and any free port)
  --public-url URL     https URL that tickets and charters carry from now on. Without it they carry the one that DIR has recorded, which at the
                       first start is where the server listens
  --database URL       a PostgreSQL database instead of a file in DIR, without a password: postgres://USER@HOST/NAME?passfile=FILE, or
                       postgres:///NAME?host=/run/postgresql. It is kept in DIR, for the next start and the commands below

The second makes an enrolment ticket for one token, also while the server runs. It needs the server to have run once, or serverUrl in the file.
  --charter FILE.json  what the token may do: docs/provisioning.md has an example and every member
  --file OUT           write the ticket to this new file, readable by its owner alone (default: standard output)

The third settles the alarms of a token (two batches under one index: a copy of it sells, or an old state of it was put back), also while the
server runs. They are kept with the note; what was refused stays refused.
  --token ID           the token's id, as GET / shows it
  --note TEXT          what was found and done

The fourth makes a recovery ticket, by which another token goes on with the ledger of one that died (ukeyctl store restore), for 72 hours, also
while the server runs. Whoever has it and a copy of that token's store can read that store.
  --token ID           the ledger: the id of its first token, as GET / shows it
  --supersede          the token that took over last never issued anything: another one may take its place
  --recovery-key FILE  instead of making a ticket: answer a restore that waits, where the recovery key was moved out of authority.json. The file
                       holds it as PEM, or as the text that stood there

The fifth moves what DIR keeps in a file into a PostgreSQL database, all of it or nothing, while no server runs. From then on DIR names that database.

Exit status: 0 done, 1 a fault, 2 wrong use, or a charter file or database URL that is not right.
`;

const exitFault = 1;
const exitUsage = 2;

async function run(words: readonly string[]): Promise<void> {
  const { values, positionals } = parse(words);
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const [command, ...rest] = positionals;
  if (values.dir === undefined || rest.length > 0) throw wrongUse('--dir is needed');
  if (command === 'move') return await move(values.dir, values.database);
  if (command !== undefined && values.database !== undefined) throw wrongUse('--database belongs to the server and to move; DIR keeps it');
  if (command === 'recover') return await recoverLedger(values.dir, values);
  if (values.supersede !== undefined || values['recovery-key'] !== undefined)
    throw wrongUse('--supersede and --recovery-key belong to recover');
  if (command !== 'settle-alarm' && (values.token !== undefined || values.note !== undefined))
    throw wrongUse('--token and --note belong to settle-alarm');
  if (command === 'ticket') return await ticket(values.dir, values.charter, values.file);
  if (command === 'settle-alarm') return await settleAlarm(values.dir, values.token, values.note);
  if (command !== undefined) throw wrongUse(`unknown command ${command}`);
  if (values.charter !== undefined || values.file !== undefined) throw wrongUse('--charter and --file belong to ticket');
  return await serve(values.dir, values.listen ?? '127.0.0.1:0', values['public-url'], values.database);
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({
      args: [...words],
      allowPositionals: true,
      options: {
        dir: { type: 'string' },
        listen: { type: 'string' },
        'public-url': { type: 'string' },
        database: { type: 'string' },
        charter: { type: 'string' },
        file: { type: 'string' },
        token: { type: 'string' },
        note: { type: 'string' },
        supersede: { type: 'boolean' },
        'recovery-key': { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (thrown) {
    throw wrongUse(thrown instanceof Error ? thrown.message : String(thrown));
  }
}

async function serve(directory: string, listen: string, publicUrl: string | undefined, databaseUrl: string | undefined): Promise<void> {
  const at = listen.lastIndexOf(':');
  const host = listen.slice(0, at).replace(/^\[(.*)\]$/, '$1');
  const port = Number(listen.slice(at + 1));
  if (at < 1 || (host.includes(':') && !isIPv6(host)) || !/^\d{1,5}$/.test(listen.slice(at + 1)) || port > 65_535)
    throw wrongUse('--listen wants HOST:PORT');
  if (publicUrl !== undefined && (!URL.canParse(publicUrl) || new URL(publicUrl).protocol !== 'https:'))
    throw wrongUse('--public-url wants an https URL');
  outliveStreams();
  const options = {
    ...{ directory, host, port, log: stderrLog },
    ...(publicUrl === undefined ? {} : { publicUrl }),
    ...(databaseUrl === undefined ? {} : { databaseUrl }),
  };
  const server = await startServer(options).catch(wrongDatabase);
  let isClosing = false;
  const stop = (): void => {
    if (isClosing) return;
    isClosing = true;
    server.close().catch((thrown: unknown) => {
      stderrLog('error', 'close-failed', { why: faultText(thrown) });
      process.exitCode = exitFault;
    });
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  const { url, authorityFingerprint } = server;
  process.stdout.write(`${JSON.stringify({ url, publicUrl: server.publicUrl, pid: process.pid, authorityFingerprint, directory })}\n`);
}

async function ticket(directory: string, charterFile: string | undefined, outFile: string | undefined): Promise<void> {
  if (charterFile === undefined) throw wrongUse('ticket needs --charter');
  const options = readCharter(charterFile);
  if (outFile !== undefined && existsSync(outFile)) throw wrongFile(`${outFile} exists already: name a new file with --file`);
  const parts = await openDirectory({ directory, log: stderrLog });
  try {
    const publicUrl = await parts.database.publicUrl();
    const made = await makeTicket(parts, options, publicUrl).catch((thrown: unknown) => {
      throw charterFault(charterFile, thrown);
    });
    const text = `${JSON.stringify(made)}\n`;
    if (outFile === undefined) process.stdout.write(text);
    else createNew(outFile, Buffer.from(text, 'utf8'));
  } finally {
    await parts.database.close();
  }
}

async function move(directory: string, url: string | undefined): Promise<void> {
  if (url === undefined) throw wrongUse('move needs --database');
  const { moveDatabase } = await import('./move-command.ts');
  process.stdout.write(`${JSON.stringify(await moveDatabase(directory, url, stderrLog).catch(wrongDatabase))}\n`);
}

async function settleAlarm(directory: string, token: string | undefined, note: string | undefined): Promise<void> {
  if (token === undefined || note === undefined || note.trim() === '') throw wrongUse('settle-alarm needs --token and --note');
  const { database, wallMs } = await openDirectory({ directory, log: stderrLog });
  try {
    if ((await database.findToken(token)) === null) throw wrongUse(`token ${token} is not enrolled here`);
    const settled = await database.settleAlarms(token, note, wallMs());
    process.stdout.write(`${JSON.stringify({ token, settled })}\n`);
  } finally {
    await database.close();
  }
}

interface RecoverValues {
  readonly token?: string | undefined;
  readonly file?: string | undefined;
  readonly supersede?: boolean | undefined;
  readonly 'recovery-key'?: string | undefined;
}

async function recoverLedger(
  directory: string,
  { token, file, supersede = false, 'recovery-key': recoveryKey }: RecoverValues,
): Promise<void> {
  if (token === undefined) throw wrongUse('recover needs --token');
  if (file !== undefined && existsSync(file)) throw wrongFile(`${file} exists already: name a new file with --file`);
  const parts = await openDirectory({ directory, log: stderrLog });
  try {
    await recover(parts, { tokenId: token, file: file ?? null, supersede, recoveryKey: recoveryKey ?? null }).catch((thrown: unknown) => {
      throw thrown instanceof UkeyError && thrown.code === 'invalid-request' ? wrongFile(thrown.message, thrown) : thrown;
    });
  } finally {
    await parts.database.close();
  }
}

function readCharter(file: string): unknown {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw wrongFile(`the charter file ${file} cannot be read: ${String((cause as NodeJS.ErrnoException).code)}`, cause);
  }
  try {
    return decodeJson(bytes);
  } catch (thrown) {
    throw charterFault(file, thrown);
  }
}

/** What is wrong with the options is said with the file's name; anything else stays what it is. */
function charterFault(file: string, thrown: unknown): unknown {
  if (!(thrown instanceof UkeyError) || (thrown.code !== 'invalid-request' && thrown.code !== 'too-large')) return thrown;
  return wrongFile(`the charter file ${file} is not right: ${thrown.message}`, thrown);
}

const fileAction = 'Correct the file, or what names it.';

function wrongFile(why: string, cause?: unknown): UkeyError {
  return new UkeyError('invalid-request', why, { action: fileAction, cause });
}

/** A URL that is not right is told in one sentence. */
function wrongDatabase(thrown: unknown): never {
  throw thrown instanceof UkeyError && thrown.code === 'invalid-request' && thrown.field === 'database'
    ? wrongFile(thrown.message, thrown)
    : thrown;
}

function wrongUse(why: string): UkeyError {
  return new UkeyError('invalid-request', why, { action: usage });
}

/** npm runs its scripts in the clone; the names of files that were typed are meant where they were typed. */
function goWhereTyped(): void {
  const { npm_lifecycle_script: script, INIT_CWD: folder } = process.env;
  if (folder !== undefined && script?.includes('server/main.ts') === true) process.chdir(folder);
}

function saidOf(error: UkeyError): string {
  if (error.action === usage) return `${error.message}\n${usage}`;
  if (error.action === fileAction) return error.message;
  const plain = plainFault(error);
  if (plain !== null) return `ticket-server: ${error.code}: ${plain.why}\n${plain.action}`;
  return JSON.stringify({ level: 'error', event: 'fault', code: error.code, why: faultText(error) });
}

goWhereTyped();
run(process.argv.slice(2)).catch((thrown: unknown) => {
  const error = asUkeyError(thrown);
  process.stderr.write(`${saidOf(error)}\n`);
  process.exitCode = error.action === usage || error.action === fileAction ? exitUsage : exitFault;
});
