import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defaultLimits } from '#ipc/limits.ts';
import { codeOf, openWorld, RawPeer, secret, type World } from '#test/ipc/world.ts';

const seed = Number(process.env['SEED'] ?? 20_260_103);

let world: World;
beforeAll(async () => {
  world = await openWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

const message = (members: string): string => `{"type":"ukey","data":{"jsonrpc":"2.0",${members}}}`;
const params = (text: string): string => message(`"id":1,"method":"test.echo","params":{"value":${text}}`);
const bytes = (before: string, bad: readonly number[], after: string): Buffer =>
  Buffer.concat([Buffer.from(before), Buffer.from(bad), Buffer.from(after)]);
const inText = (...bad: number[]): Buffer =>
  bytes('{"type":"ukey","data":{"jsonrpc":"2.0","id":1,"method":"test.echo","params":{"value":"', bad, '"}}}');

/** Frames that belong to no request: one error with id null, then the end. */
const closing: readonly (readonly [string, string | Buffer])[] = [
  ['an empty frame', ''],
  ['null, which kills the package’s own parser', 'null'],
  ['a blank', ' '],
  ['true', 'true'],
  ['a number', '1'],
  ['a string', '"ukey"'],
  ['an array', '[]'],
  ['a batch of requests', `[${message('"id":1,"method":"test.echo"')}]`],
  ['an object with nothing in it', '{}'],
  ['no type', '{"data":{}}'],
  ['no data', '{"type":"ukey"}'],
  ['type null', '{"type":null,"data":{}}'],
  ['another event type', '{"type":"app.message","data":{}}'],
  ['an event type of the package: connect', '{"type":"connect","data":{}}'],
  ['an event type of the package: error', '{"type":"error","data":{}}'],
  ['an event type of the package: data', '{"type":"data","data":{}}'],
  ['an event type of every object: __proto__', '{"type":"__proto__","data":{}}'],
  ['an event type of every object: constructor', '{"type":"constructor","data":{}}'],
  ['an event type for all', '{"type":"*","data":{}}'],
  ['a third member', '{"type":"ukey","data":{},"more":1}'],
  ['two types', '{"type":"ukey","type":"ukey","data":{}}'],
  ['two data', `{"type":"ukey","data":{},"data":{}}`],
  ['__proto__ in the envelope', '{"type":"ukey","__proto__":{"data":1},"data":{}}'],
  ['data null', '{"type":"ukey","data":null}'],
  ['data as text', '{"type":"ukey","data":"{}"}'],
  ['data as an array', '{"type":"ukey","data":[]}'],
  ['no id', message('"method":"test.echo"')],
  ['id null', message('"id":null,"method":"test.echo"')],
  ['id true', message('"id":true,"method":"test.echo"')],
  ['id as an object', message('"id":{},"method":"test.echo"')],
  ['a fractional id', message('"id":0.5,"method":"test.echo"')],
  ['an id beyond 2^53', message('"id":9007199254740993,"method":"test.echo"')],
  ['an id of minus zero', message('"id":-0,"method":"test.echo"')],
  ['an id of 65 characters', message(`"id":"${'i'.repeat(65)}","method":"test.echo"`)],
  ['two ids', message('"id":1,"id":2,"method":"test.echo"')],
  ['an answer', message('"id":1,"result":{}')],
  ['an error', message('"id":1,"error":{"code":1,"message":"m"}')],
  ['an event', message('"method":"event","params":{"event":"e","at":"now"}')],
  ['a cut object', '{"type":"ukey","data":{'],
  ['a trailing comma', '{"type":"ukey","data":{},}'],
  ['two values', '{} {}'],
  ['single quotes', "{'type':'ukey'}"],
  ['a comment', '{"type":"ukey"/**/,"data":{}}'],
  ['NaN', params('NaN')],
  ['Infinity', params('Infinity')],
  ['a leading zero', params('01')],
  ['a raw line feed in text', params('"a\nb"')],
  ['a raw NUL in text', params('"a\u0000b"')],
  ['a byte order mark', `\ufeff${params('1')}`],
  ['a lone UTF-8 continuation', inText(0x80)],
  ['a cut UTF-8 sequence', inText(0xe2, 0x82)],
  ['an overlong UTF-8 sequence', inText(0xc1, 0x81)],
  ['a surrogate in UTF-8', inText(0xed, 0xbf, 0xbf)],
  ['UTF-8 above U+10FFFF', inText(0xf5, 0x80, 0x80, 0x80)],
  ['Latin-1', inText(0xfc)],
  ['UTF-16', Buffer.from(params('1'), 'utf16le')],
  ['random bytes', Buffer.from('deadbeef00ff10203040', 'hex')],
  ['an HTTP request', 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'],
  ['depth 33 outside params', `{"type":"ukey","data":${'['.repeat(40)}${']'.repeat(40)}}`],
  ['depth 100,000', '['.repeat(100_000)],
];

/** Frames whose request is known: an error with its id, and the connection goes on. */
const answered: readonly (readonly [string, string, string])[] = [
  ['a double key', params('{"a":1,"a":1}'), 'invalid-request'],
  ['a double key once escaped', params('{"a":1,"\\u0061":1}'), 'invalid-request'],
  ['2^53', params('9007199254740992'), 'invalid-request'],
  ['2^53 + 1 far inside', params('[{"x":[9007199254740993]}]'), 'invalid-request'],
  ['1e400', params('1e400'), 'invalid-request'],
  ['minus zero', params('-0'), 'invalid-request'],
  ['a fraction that no double keeps', params('0.12345678901234567890'), 'invalid-request'],
  ['a lone surrogate', params('"\\ud800"'), 'invalid-request'],
  ['a lone surrogate in a key', params('{"\\udc00":1}'), 'invalid-request'],
  ['__proto__', params('{"__proto__":{"roles":["admin"]}}'), 'invalid-request'],
  ['depth 33 in params', params('['.repeat(40) + ']'.repeat(40)), 'invalid-request'],
  ['params null', message('"id":1,"method":"test.echo","params":null'), 'invalid-request'],
  ['params as an array', message('"id":1,"method":"test.echo","params":[]'), 'invalid-request'],
  ['an unknown parameter', message('"id":1,"method":"test.echo","params":{"valeu":1}'), 'invalid-request'],
  ['an unknown member', message('"id":1,"method":"test.echo","roles":["admin"]'), 'invalid-request'],
  ['no method', message('"id":1'), 'invalid-request'],
  ['a method that is a number', message('"id":1,"method":5'), 'invalid-request'],
  ['an empty method', message('"id":1,"method":""'), 'invalid-request'],
  ['another JSON-RPC', '{"type":"ukey","data":{"jsonrpc":"1.0","id":1,"method":"test.echo"}}', 'invalid-request'],
  ['an unknown method', message('"id":1,"method":"test.nothing"'), 'unknown-method'],
  ['a method of every object: constructor', message('"id":1,"method":"constructor"'), 'unknown-method'],
  ['a method of every object: __proto__', message('"id":1,"method":"__proto__"'), 'unknown-method'],
  ['a method of every object: toString', message('"id":1,"method":"toString"'), 'unknown-method'],
];

async function known(): Promise<RawPeer> {
  const peer = new RawPeer(world.till);
  expect(codeOf(await peer.authenticate())).toBe('answer');
  return peer;
}

async function stillServes(): Promise<void> {
  const peer = await known();
  peer.request(1, 'test.echo', { value: 'alive' });
  expect(await peer.next()).toMatchObject({ kind: 'answer', result: { value: 'alive' } });
  peer.end();
}

describe('a frame that belongs to no request', () => {
  it.each(closing)('is answered before the connection is closed: %s', async (_, frame) => {
    const peer = await known();
    peer.send(Buffer.concat([Buffer.from(frame), Buffer.from('\f')]));
    const answer = await peer.next();
    expect(answer).toMatchObject({ kind: 'refusal', id: null, error: { code: 'invalid-request' } });
    await peer.until(() => peer.closed);
    expect(peer.messages).toEqual([]);
  });

  it.each(closing)('closes a stranger as well: %s', async (_, frame) => {
    const peer = new RawPeer(world.till);
    peer.send(Buffer.concat([Buffer.from(frame), Buffer.from('\f')]));
    const answer = await peer.next();
    expect(answer).toMatchObject({ kind: 'refusal', id: null });
    await peer.until(() => peer.closed);
  });

  it('leaves the service as it was', stillServes);
});

describe('a bad request that can be told from others', () => {
  it.each(answered)('is answered, and the connection goes on: %s', async (_, frame, code) => {
    const peer = await known();
    peer.send(`${frame}\f`);
    const answer = await peer.next();
    expect(answer).toMatchObject({ kind: 'refusal', id: 1 });
    expect(codeOf(answer)).toBe(code);
    peer.request(2, 'test.echo', { value: 1 });
    expect(await peer.next()).toEqual({ kind: 'answer', id: 2, result: { value: 1 } });
    peer.end();
  });

  it('does not reach a prototype', async () => {
    expect(({} as Record<string, unknown>)['roles']).toBeUndefined();
    await stillServes();
  });
});

describe('a frame that is too long', () => {
  it('is refused at its 262,145th byte, ended or not', async () => {
    for (const tail of ['', '\f']) {
      const peer = await known();
      peer.send(`"${'x'.repeat(defaultLimits.frameBytes)}${tail}`);
      expect(await peer.next()).toMatchObject({ kind: 'refusal', id: null, error: { code: 'too-large' } });
      await peer.until(() => peer.closed);
    }
  });

  it('is taken at the limit', async () => {
    const peer = await known();
    const empty = params('""');
    const value = 'v'.repeat(defaultLimits.frameBytes - empty.length);
    peer.send(`${params(`"${value}"`)}\f`);
    expect(await peer.next()).toEqual({ kind: 'answer', id: 1, result: { value } });
    peer.end();
  });

  it('is refused much earlier from a stranger', async () => {
    const peer = new RawPeer(world.till);
    peer.send('x'.repeat(defaultLimits.strangerFrameBytes + 1));
    expect(codeOf(await peer.next())).toBe('too-large');
    await peer.until(() => peer.closed);
  });

  it('costs no memory: 64 MB without an end', async () => {
    const peer = await known();
    globalThis.gc?.();
    const before = process.memoryUsage.rss();
    const chunk = Buffer.alloc(1 << 20, 0x61);
    for (let sent = 0; sent < 64 && !peer.closed; sent++) {
      if (!peer.socket.write(chunk))
        await Promise.race([new Promise((resolve) => peer.socket.once('drain', resolve)), peer.until(() => peer.closed)]);
    }
    await peer.until(() => peer.closed, 5_000);
    expect(codeOf(await peer.next())).toBe('too-large');
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
    await stillServes();
  });
});

describe('frames in pieces', () => {
  it('are one request, byte by byte', async () => {
    const peer = await known();
    for (const byte of Buffer.from(`${params('"é😀"')}\f`)) {
      peer.send(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await peer.next()).toEqual({ kind: 'answer', id: 1, result: { value: 'é😀' } });
    peer.end();
  });

  it('are each answered when a thousand come at once', async () => {
    const peer = await known();
    peer.send(Array.from({ length: 1_000 }, (_, id) => `${message(`"id":${id},"method":"test.echo"`)}\f`).join(''));
    await peer.until(() => peer.messages.length === 1_000, 5_000);
    expect(new Set(peer.messages.map((one) => (one.kind === 'answer' ? one.id : one.kind))).size).toBe(1_000);
    peer.end();
  });

  it('are answered after the sender has stopped sending', async () => {
    const peer = await known();
    peer.send(`${message('"id":1,"method":"test.wait","params":{"waitMs":50}')}\f`);
    peer.socket.end();
    expect(await peer.next()).toMatchObject({ kind: 'answer', id: 1 });
    await peer.until(() => peer.closed);
  });
});

describe('mutated conversations', () => {
  it(`leave the service alive and change nothing silently (seed ${seed})`, async () => {
    const base = Buffer.from(`${params('{"a":[1,"é"],"b":"\\u00e9"}')}\f`);
    const conversation = fc.array(
      fc.oneof(
        fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { maxLength: 4 }).map((changes) => {
          const copy = Buffer.from(base);
          for (const [at, byte] of changes) copy[at] = byte;
          return copy;
        }),
        fc.uint8Array({ maxLength: 60 }).map((random) => Buffer.from(random)),
      ),
      { minLength: 1, maxLength: 5 },
    );
    await fc.assert(
      fc.asyncProperty(conversation, fc.boolean(), async (parts, isKnown) => {
        const peer = isKnown ? await known() : new RawPeer(world.till);
        for (const part of parts) peer.send(part);
        peer.socket.end('\f');
        await peer.until(() => peer.closed);
        for (const answer of peer.messages) {
          expect(['answer', 'refusal']).toContain(answer.kind);
          if (answer.kind === 'refusal') expect(answer.error.code).not.toBe('internal');
        }
      }),
      { seed, numRuns: 300 },
    );
    await stillServes();
    expect(world.reports.filter((one) => one.level === 'error')).toEqual([]);
  }, 20_000);

  it('never wrote a secret or a request into the log', () => {
    const text = JSON.stringify(world.reports);
    expect(text).not.toContain(secret.toString('hex'));
    expect(text).not.toContain('jsonrpc');
  });

  it('tells the peer, and not the log, which of its words is wrong', async () => {
    const peer = new RawPeer(world.till);
    peer.send('{"4711\\n2026-11-30 error forged":1,"type":"ukey","data":{}}\f');
    await peer.until(() => peer.closed);
    expect(JSON.stringify(peer.messages)).toContain('4711');
    expect(JSON.stringify(world.reports)).not.toContain('4711');
    expect(world.reports.at(-1)).toMatchObject({ facts: { why: 'a frame that is no request' } });
  });
});
