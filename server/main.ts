// Owns: the ticket server as a program: arguments, signals, exit codes.
//   node server/main.ts --dir DIR [--listen HOST:PORT] [--public-url URL]     serves until SIGTERM or SIGINT; one JSON line when ready
//   node server/main.ts ticket --dir DIR --charter FILE.json [--file OUT]     makes an enrolment ticket, also while the server runs
// Exit codes: 0 done, 1 a fault, 2 wrong use. Listens on 127.0.0.1 unless told otherwise (http.ts says why).
// Invariants: an enrolment code goes to the file (0600) or to standard output, never into a log or an argument.
import { readFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { parseArgs } from 'node:util';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { createNew } from './key-file.ts';
import { faultText, stderrLog } from './log.ts';
import { openDirectory, startServer } from './serve.ts';
import { makeTicket } from './ticket.ts';

const usage = `usage: main.ts --dir DIR [--listen HOST:PORT] [--public-url URL]
       main.ts ticket --dir DIR --charter FILE.json [--file OUT]`;

const exitFault = 1;
const exitUsage = 2;

async function run(words: readonly string[]): Promise<void> {
  const { values, positionals } = parse(words);
  const [command, ...rest] = positionals;
  if (values.dir === undefined || rest.length > 0) throw wrongUse('--dir is needed');
  if (command === 'ticket') return await ticket(values.dir, values.charter, values.file);
  if (command !== undefined) throw wrongUse(`unknown command ${command}`);
  if (values.charter !== undefined || values.file !== undefined) throw wrongUse('--charter and --file belong to ticket');
  return await serve(values.dir, values.listen ?? '127.0.0.1:0', values['public-url']);
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
        charter: { type: 'string' },
        file: { type: 'string' },
      },
    });
  } catch (thrown) {
    throw wrongUse(thrown instanceof Error ? thrown.message : String(thrown));
  }
}

async function serve(directory: string, listen: string, publicUrl: string | undefined): Promise<void> {
  const at = listen.lastIndexOf(':');
  const host = listen.slice(0, at).replace(/^\[(.*)\]$/, '$1');
  const port = Number(listen.slice(at + 1));
  if (at < 1 || (host.includes(':') && !isIPv6(host)) || !/^\d{1,5}$/.test(listen.slice(at + 1)) || port > 65_535)
    throw wrongUse('--listen wants HOST:PORT');
  if (publicUrl !== undefined && (!URL.canParse(publicUrl) || new URL(publicUrl).protocol !== 'https:'))
    throw wrongUse('--public-url wants an https URL');
  const options = { directory, host, port, log: stderrLog, ...(publicUrl === undefined ? {} : { publicUrl }) };
  const server = await startServer(options);
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
  const options = decodeJson(readFileSync(charterFile));
  const parts = await openDirectory({ directory, log: stderrLog });
  try {
    const made = await makeTicket(parts, options, await parts.database.publicUrl());
    const text = `${JSON.stringify(made)}\n`;
    if (outFile === undefined) process.stdout.write(text);
    else createNew(outFile, Buffer.from(text, 'utf8'));
  } finally {
    await parts.database.close();
  }
}

function wrongUse(why: string): UkeyError {
  return new UkeyError('invalid-request', why, { action: usage });
}

run(process.argv.slice(2)).catch((thrown: unknown) => {
  const error = asUkeyError(thrown);
  const isUse = error.action === usage;
  process.stderr.write(
    isUse
      ? `${error.message}\n${usage}\n`
      : `${JSON.stringify({ level: 'error', event: 'fault', code: error.code, why: faultText(error) })}\n`,
  );
  process.exitCode = isUse ? exitUsage : exitFault;
});
