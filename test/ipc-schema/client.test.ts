import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { connect } from '#ipc-schema/client.ts';
import { decodeFrame, type EventNotice, encodeAnswer, encodeEvent, encodeRefusal, type Request } from '#ipc-schema/envelope.ts';
import { type ErrorCode, errorTable, UkeyError } from '#ipc-schema/errors.ts';
import { FrameCutter } from '#ipc-schema/frame-cutter.ts';
import { serviceMac } from '#ipc-schema/handshake.ts';
import { issueUntilKnown, judgeIssueError } from '#ipc-schema/issue-again.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import type { Params } from '#ipc-schema/methods.ts';
import { callTest, openWorld, refusalOf, secret, temporaryDirectory } from '#test/ipc/world.ts';

const challenge = 'cc'.repeat(32);
const issued: Issued = {
  number: 'A-1',
  sequence: 1,
  issuedAt: '2026-01-01T00:00:00Z',
  currency: 'EUR',
  total: '1.00',
  taxTotal: '0.00',
  delivery: 'pending',
  repeated: false,
  budget: { hoursLeft: null, countLeft: null, amountLeft: null, single: null, usedPercent: 0 },
};
const invoice: Params<'invoice.issue'> = {
  key: 'k-1',
  template: 'retail',
  lines: [{ description: 'x', quantity: '1', unitPrice: '1.00' }],
};

/** A service of the test's own, which may lie, be slow or hang up. `answer` returns a frame, or null for silence. */
async function fakeService(
  path: string,
  answer: (request: Request, socket: Socket) => string | null,
  proofSecret: Uint8Array = secret,
): Promise<{ server: Server; seen: Request[]; close(): Promise<void> }> {
  const seen: Request[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const cutter = new FrameCutter();
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      cutter.push(chunk);
      for (let frame = cutter.take(1 << 20); frame !== null; frame = cutter.take(1 << 20)) {
        const message = decodeFrame(frame);
        if (message.kind !== 'request') throw new Error('not a request');
        seen.push(message);
        const reply = introduce(message, proofSecret) ?? answer(message, socket);
        if (reply !== null && socket.writable) socket.write(reply);
      }
    });
  }).listen(path);
  await once(server, 'listening');
  return {
    server,
    seen,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

function introduce({ id, method, params }: Request, proofSecret: Uint8Array): string | null {
  if (method === 'hello') return encodeAnswer(id, { version: 1, server: 'fake', challenge, standing: 'issuing-online' });
  if (method === 'authenticate')
    return encodeAnswer(id, {
      role: 'till',
      mac: serviceMac(proofSecret, { challenge, nonce: String(params['nonce']), terminal: 'till-1' }),
    });
  return null;
}

const asTill = (socketPath: string) => ({
  socketPath,
  client: 'test/1',
  terminal: 'till-1',
  secret,
  limits: { reconnectMinMs: 5, reconnectMaxMs: 20 },
});

describe('connecting', () => {
  it('tells that nobody answers, with the reason behind it', async () => {
    await using temporary = await temporaryDirectory();
    const refused = connect(asTill(join(temporary.dir, 'nobody.sock')));
    await expect(refused).rejects.toMatchObject({ code: 'busy', cause: { code: 'ENOENT' } });
  });

  it('can wait for a service that is still starting', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    const waiting = connect({ ...asTill(path), waitMs: 2_000 });
    await new Promise((resolve) => setTimeout(resolve, 50));
    const fake = await fakeService(path, () => null);
    const client = await waiting;
    expect(client.role).toBe('till');
    client.close();
    await fake.close();
  });

  it('gives up waiting in time', async () => {
    await using temporary = await temporaryDirectory();
    expect(await refusalOf(connect({ ...asTill(join(temporary.dir, 'nobody.sock')), waitMs: 60 }))).toBe('busy');
  });

  it('believes no service that does not know the secret, and shows it nothing but a proof', async () => {
    await using temporary = await temporaryDirectory();
    const fake = await fakeService(join(temporary.dir, 's.sock'), () => null, randomBytes(32));
    expect(await refusalOf(connect(asTill(join(temporary.dir, 's.sock'))))).toBe('unauthenticated');
    expect(fake.seen.map((request) => request.method)).toEqual(['hello', 'authenticate']);
    expect(JSON.stringify(fake.seen)).not.toContain(secret.toString('hex'));
    await fake.close();
  });

  it('asks for terminal and secret together', async () => {
    expect(await refusalOf(connect({ socketPath: '/nowhere', client: 'test', terminal: 'till-1' }))).toBe('invalid-request');
  });

  it('does not wait for ever for a service that accepts and says nothing', async () => {
    await using temporary = await temporaryDirectory();
    const server = createServer((socket) => socket.on('error', () => undefined)).listen(join(temporary.dir, 's.sock'));
    await once(server, 'listening');
    expect(await refusalOf(connect({ ...asTill(join(temporary.dir, 's.sock')), limits: { connectWaitMs: 40 } }))).toBe('busy');
    server.close();
  });
});

describe('a call', () => {
  it('that is not answered in time has an unknown outcome, and its late answer harms nobody', async () => {
    await using world = await openWorld();
    const client = await world.client();
    expect(await refusalOf(callTest(client, 'test.wait', { waitMs: 60 }, 20))).toBe('unknown-outcome');
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(await callTest(client, 'test.echo', { value: 1 })).toEqual({ value: 1 });
  });

  it('whose connection is lost has an unknown outcome; the next one is made on a new connection', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    let hangUps = 1;
    const fake = await fakeService(path, ({ id }, socket) => {
      if (hangUps-- > 0) socket.destroy();
      return encodeAnswer(id, issued);
    });
    const client = await connect(asTill(path));
    expect(await refusalOf(client.call('invoice.last', {}))).toBe('unknown-outcome');
    expect(await client.call('invoice.last', {})).toEqual(issued);
    client.close();
    await fake.close();
  });

  it('made while the service is away waits for it, and was never sent when it does not come back', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    const first = await fakeService(path, () => null);
    const client = await connect(asTill(path));
    await first.close();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await refusalOf(client.call('invoice.last', {}, { timeoutMs: 50 }))).toBe('busy');
    const later = client.call('invoice.last', {}, { timeoutMs: 2_000 });
    const second = await fakeService(path, ({ id }) => encodeAnswer(id, issued));
    expect(await later).toEqual(issued);
    client.close();
    await second.close();
  });

  it('that is too large is refused here, and the others on the connection go on', async () => {
    await using world = await openWorld();
    const client = await world.client();
    const other = callTest(client, 'test.wait', { waitMs: 30 });
    expect(await refusalOf(callTest(client, 'test.echo', { value: 'x'.repeat(256 * 1024) }))).toBe('too-large');
    expect(await other).toBe('');
  });

  it('beyond the maximum of open calls is busy', async () => {
    await using world = await openWorld();
    const client = await world.client({ limits: { openCalls: 2 } });
    const open = [callTest(client, 'test.wait', { waitMs: 30 }), callTest(client, 'test.wait', { waitMs: 30 })];
    expect(await refusalOf(callTest(client, 'test.echo'))).toBe('busy');
    await Promise.all(open);
    expect(await callTest(client, 'test.echo')).toEqual({ value: null });
  });

  it.each<[string, string]>([
    ['no JSON', 'garbage\f'],
    ['an endless answer', 'x'.repeat(70_000)],
    ['a request', '{"type":"ukey","data":{"jsonrpc":"2.0","id":1,"method":"m"}}\f'],
    ['an error that belongs to no call', encodeRefusal(null, new UkeyError('too-large', 'x'))],
  ])('to a service that answers %s has an unknown outcome', async (_, reply) => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    const fake = await fakeService(path, () => reply);
    const client = await connect({ ...asTill(path), limits: { answerBytes: 60_000 } });
    expect(await refusalOf(client.call('invoice.last', {}, { timeoutMs: 1_000 }))).toBe('unknown-outcome');
    client.close();
    await fake.close();
  });

  it('after close is refused, and those open end', async () => {
    await using world = await openWorld();
    const client = await world.client();
    const open = refusalOf(callTest(client, 'test.wait', { waitMs: 500 }));
    client.close();
    expect(await open).toBe('unknown-outcome');
    expect(await refusalOf(callTest(client, 'test.echo'))).toBe('invalid-request');
  });
});

describe('events', () => {
  it('come again after the connection was lost and made anew', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    const notices: EventNotice[] = [];
    const answer = ({ id, method }: Request): string | null =>
      method === 'events.subscribe'
        ? encodeAnswer(id, { events: ['link'] }) + encodeEvent({ event: 'link', at: 'now', n: notices.length })
        : null;
    const first = await fakeService(path, answer);
    const client = await connect({ ...asTill(path), onEvent: (notice) => void notices.push(notice) });
    await client.subscribe(['link']);
    await first.close();
    const second = await fakeService(path, answer);
    while (notices.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(second.seen.map((request) => request.method)).toEqual(['hello', 'authenticate', 'events.subscribe']);
    client.close();
    await second.close();
  });
});

describe('issue', () => {
  it('asks again with the same key through busy, silence, lost connections and a restart, and issues once', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    const ledger = new Map<string, Issued>();
    let turn = 0;
    const answer = ({ id, params }: Request, socket: Socket): string | null => {
      const key = String(params['key']);
      switch (turn++) {
        case 0:
          return encodeRefusal(id, new UkeyError('busy', 'full', { retryAfterMs: 10 }));
        case 1:
          // Committed, and the answer lost on its way.
          ledger.set(key, { ...issued, sequence: ledger.size + 1 });
          socket.destroy();
          return null;
        case 2:
          return encodeRefusal(id, new UkeyError('unknown-outcome', 'not known yet'));
        case 3:
          return null;
        case 4:
          // A service that has just started and waits for its PIN does not know; this settles nothing.
          return encodeRefusal(id, new UkeyError('locked', 'log in'));
        default:
          return encodeAnswer(id, { ...(ledger.get(key) ?? issued), repeated: ledger.has(key) });
      }
    };
    const first = await fakeService(path, answer);
    const client = await connect(asTill(path));
    const outcome = client.issue(invoice, { attemptMs: 60, deadlineMs: 5_000 });
    while (turn < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    await first.close();
    const second = await fakeService(path, answer);
    expect(await outcome).toMatchObject({ sequence: 1, repeated: true });
    const asked = [...first.seen, ...second.seen].filter((request) => request.method === 'invoice.issue');
    expect(asked.length).toBeGreaterThanOrEqual(6);
    expect(new Set(asked.map((request) => request.params['key'])).size).toBe(1);
    client.close();
    await second.close();
  });

  it('ends in unknown-outcome when the client is closed while it is in doubt', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 's.sock');
    const fake = await fakeService(path, () => null);
    const client = await connect(asTill(path));
    const outcome = refusalOf(client.issue(invoice));
    await new Promise((resolve) => setTimeout(resolve, 20));
    client.close();
    expect(await outcome).toBe('unknown-outcome');
    await fake.close();
  });
});

describe('what an error says about an invoice', () => {
  const codes = Object.keys(errorTable) as ErrorCode[];

  it.each(codes)('without doubt: %s ends the asking exactly when the table says that repeating does not help', (code) => {
    const { retry } = errorTable[code];
    expect(judgeIssueError(new UkeyError(code, 'x'), false)).toBe(retry === 'same-key' || retry === 'after-ms' ? 'repeat' : 'definite');
  });

  it.each(codes)('in doubt: %s is a definite no only from a service that judged the content', (code) => {
    const verdict = judgeIssueError(new UkeyError(code, 'x'), true);
    if (code === 'unauthenticated' || code === 'forbidden') expect(verdict).toBe('end');
    else expect(verdict).toBe(['caller', 'limit'].includes(errorTable[code].fault) ? 'definite' : 'repeat');
  });

  /** Attempts that end in the given codes, one after the other, on a clock that moves with each pause and attempt. */
  async function run(
    ends: readonly (ErrorCode | 'issued')[],
    deadlineMs = 60_000,
  ): Promise<{ end: string; attempts: number; spentMs: number }> {
    let nowMs = 0;
    let attempts = 0;
    const end = await issueUntilKnown({
      attempt: async (timeoutMs) => {
        const code = ends[Math.min(attempts++, ends.length - 1)] ?? 'issued';
        if (code === 'issued') return issued;
        nowMs += code === 'unknown-outcome' ? timeoutMs : 1;
        throw new UkeyError(code, code);
      },
      attemptMs: 1_000,
      deadlineMs,
      nowMs: () => nowMs,
      sleep: async (waitMs) => {
        nowMs += waitMs;
      },
      isOver: () => false,
      random: () => 1,
    }).then(
      () => 'issued',
      (thrown: unknown) => (thrown instanceof UkeyError ? thrown.code : 'foreign'),
    );
    return { end, attempts, spentMs: nowMs };
  }

  it.each<[readonly (ErrorCode | 'issued')[], string]>([
    [['issued'], 'issued'],
    [['busy', 'busy', 'issued'], 'issued'],
    [['unknown-outcome', 'busy', 'locked', 'halted', 'no-token', 'issued'], 'issued'],
    [['invalid-invoice'], 'invalid-invoice'],
    [['locked'], 'locked'],
    [['unknown-outcome', 'limit-count'], 'limit-count'],
    [['unknown-outcome', 'key-reused'], 'key-reused'],
    [['unknown-outcome', 'unauthenticated'], 'unknown-outcome'],
    [['unknown-outcome', 'locked'], 'unknown-outcome'],
    [['unknown-outcome', 'busy'], 'unknown-outcome'],
    [['internal', 'locked', 'issued'], 'issued'],
    [['internal', 'no-token'], 'unknown-outcome'],
    [['internal', 'invalid-invoice'], 'invalid-invoice'],
    [['internal'], 'unknown-outcome'],
    [['busy'], 'busy'],
    [['token-failed'], 'token-failed'],
  ])('attempts that end in %s end in %s', async (ends, end) => {
    expect((await run(ends)).end).toBe(end);
  });

  it('stops at the deadline and does not ask without a pause', async () => {
    const { attempts, spentMs } = await run(['busy'], 10_000);
    expect(spentMs).toBeLessThanOrEqual(10_000);
    expect(attempts).toBeLessThan(30);
  });
});
