// The exchange that SPEC.md shows is spoken with the service's own socket, byte by byte; the maxima that it names are those of the code.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { requestDigest } from '#desk/request-digest.ts';
import { systemClock } from '#ground/clock.ts';
import { defaultLimits } from '#ipc/limits.ts';
import { type Handlers, serve } from '#ipc/serve.ts';
import { decodeFrame } from '#ipc-schema/envelope.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { evidenceFileMaxBytes } from '#ipc-schema/evidence-file.ts';
import { invoiceDocumentSchema, linesMax } from '#ipc-schema/invoice.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { type Methods, methods } from '#ipc-schema/methods.ts';
import { check } from '#ipc-schema/schema.ts';
import { refusal } from '#test/support/refusal.ts';
import { specExamples } from './spec-facts.ts';

const text = readFileSync(new URL('../../ipc-schema/SPEC.md', import.meta.url), 'utf8');
const facts = specExamples();
const fact = (name: string): string => facts[name] ?? '';
const document = check(invoiceDocumentSchema, JSON.parse(fact('document')));

const issued: Issued = {
  number: document.number,
  sequence: document.sequence,
  issuedAt: document.issuedAt,
  currency: document.currency,
  total: document.total,
  taxTotal: document.taxTotal,
  document: fact('document'),
  evidence: Buffer.from(fact('evidence'), 'hex').toString('base64'),
  qr: fact('qr'),
  delivery: 'pending',
  repeated: false,
  budget: { hoursLeft: 72, countLeft: 4999, amountLeft: '249984.70', single: '10000.00', usedPercent: 0 },
};

/** The service's socket with the example's challenge and secret, and a ledger that knows one invoice. */
async function served(directory: string): Promise<{ path: string; close(): Promise<void> }> {
  const nothing = async (): Promise<never> => {
    throw new UkeyError('internal', 'not in the example');
  };
  const names = Object.keys(methods).filter((name) => !['hello', 'authenticate', 'events.subscribe'].includes(name));
  const handlers = { ...Object.fromEntries(names.map((name) => [name, nothing])), 'invoice.issue': async () => issued };
  const path = join(directory, 'till.sock');
  const service = await serve({
    methods,
    handlers: handlers as unknown as Handlers<Methods>,
    tillSocketPath: path,
    adminSocketPath: join(directory, 'admin.sock'),
    findTerminal: (id) => (id === 'till-1' ? { id, role: 'till', secret: Buffer.from(fact('handshake.secret'), 'hex') } : null),
    standing: () => 'issuing-offline',
    serverName: 'ukeyd/0.1.0',
    clock: systemClock,
    randomBytes: (length) => Buffer.from(fact('handshake.challenge'), 'hex').subarray(0, length),
    report: () => undefined,
    checkResults: true,
  });
  return { path, close: () => service.close() };
}

/** What comes until the next form feed, with it. */
async function nextFrame(socket: Socket): Promise<string> {
  let got = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    got += String(chunk);
    if (got.endsWith('\f')) return got;
  }
  throw new Error(`the connection ended after ${got}`);
}

it('the exchange on the wire is what the service answers, byte by byte', async () => {
  const lines = (/^```wire\n(.*?)\n```$/ms.exec(text)?.[1] ?? '').split('\n').map((line) => line.replace(/<0x0C>$/, '\f'));
  const directory = await mkdtemp(join(tmpdir(), 'ukey-wire-'));
  const service = await served(directory);
  const socket = connect(service.path).setEncoding('utf8');
  const said: string[] = [];
  try {
    for (const line of lines.filter((one) => one.startsWith('-> '))) {
      socket.write(line.slice(3));
      said.push(line, `<- ${await nextFrame(socket)}`);
    }
  } finally {
    socket.destroy();
    await service.close();
    await rm(directory, { recursive: true, force: true });
  }
  expect(said).toHaveLength(8);
  expect(lines).toEqual(said);
  const request = decodeFrame(Buffer.from((lines[4] ?? '').slice(3, -1)));
  expect(request.kind === 'request' && requestDigest(request.params)).toBe(document.request.digest);
});

it('the maxima of the socket are those of the code', () => {
  const of = (value: number): string => String(value);
  const { frameBytes, strangerFrameBytes, answerBytes, outputHighBytes, outputMaxBytes } = defaultLimits;
  const { tillConnections, adminConnections, connectionsPerTerminal } = defaultLimits;
  const { requestsPerConnection, requestsPerTerminal, requestsInAll } = defaultLimits;
  const { strangerWaitMs, frameWaitMs, outputWaitMs } = defaultLimits;
  const [kib, mib] = [1024, 1024 * 1024];
  for (const row of [
    `| a frame to the service; before authentication | ${frameBytes / kib} KiB; ${strangerFrameBytes / kib} KiB |`,
    `| an answer; an evidence file | ${answerBytes / mib} MiB; ${evidenceFileMaxBytes / mib} MiB |`,
    `| connections: of tills; of operators; of one terminal | ${[tillConnections, adminConnections, connectionsPerTerminal].map(of).join('; ')} |`,
    `| open requests: of a connection; of a terminal; in all | ${[requestsPerConnection, requestsPerTerminal, requestsInAll].map(of).join('; ')} |`,
    `| seconds: to authenticate; for a frame to end; for a reader to read | ${[strangerWaitMs, frameWaitMs, outputWaitMs].map((ms) => of(ms / 1000)).join('; ')} |`,
    `| output that waits: then events are dropped; then the connection is closed | ${outputHighBytes / kib} KiB; ${outputMaxBytes / mib} MiB |`,
  ])
    expect(text.includes(`${row}\n`) || text.endsWith(row), row).toBe(true);
});

it('a preview needs a key too, params may be left out, and many long lines are too large', () => {
  const lines = [{ description: 'x', quantity: '1', unitPrice: '1' }];
  expect(refusal(() => check(methods['invoice.preview'].params, { template: 'retail', lines })).field).toBe('key');
  const bare = decodeFrame(Buffer.from('{"type":"ukey","data":{"jsonrpc":"2.0","id":1,"method":"invoice.last"}}'));
  expect(bare).toMatchObject({ kind: 'request', params: {} });
  const long = Array.from({ length: linesMax }, () => ({ ...lines[0], description: 'x'.repeat(300) }));
  expect(check(methods['invoice.issue'].params, { key: 'k', template: 'retail', lines: long }).lines).toHaveLength(linesMax);
  expect(JSON.stringify(long).length).toBeGreaterThan(defaultLimits.frameBytes);
});
