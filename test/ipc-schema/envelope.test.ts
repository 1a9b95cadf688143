import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeFrame, encodeAnswer, encodeEvent, encodeRefusal, encodeRequest, frameEnd, type Message } from '#ipc-schema/envelope.ts';
import { type ErrorCode, errorTable, UkeyError } from '#ipc-schema/errors.ts';
import { FrameCutter } from '#ipc-schema/frame-cutter.ts';
import { clientMac, macEquals, serviceMac } from '#ipc-schema/handshake.ts';

const seed = Number(process.env['SEED'] ?? 20_260_102);

/** What the other side reads of a frame that this side wrote. */
function carried(frame: string): Message {
  const bytes = Buffer.from(frame, 'utf8');
  expect(bytes.indexOf(frameEnd)).toBe(bytes.length - 1);
  return decodeFrame(bytes.subarray(0, -1));
}

const read = (text: string): Message => decodeFrame(Buffer.from(text, 'utf8'));
const framed = (data: string): Message => read(`{"type":"ukey","data":${data}}`);

describe('a frame', () => {
  it(`carries any request unchanged, form feeds in text included (seed ${seed})`, () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary', maxLength: 20 }).filter((id) => id.isWellFormed()),
          fc.maxSafeInteger(),
        ),
        fc.array(fc.string({ unit: 'binary' }).filter((text) => text.isWellFormed())),
        (id, texts) => {
          expect(carried(encodeRequest(id, 'invoice.get', { texts: [...texts, '\f'] }))).toEqual({
            kind: 'request',
            id,
            method: 'invoice.get',
            params: { texts: [...texts, '\f'] },
          });
        },
      ),
      { seed, numRuns: 300 },
    );
  });

  it('carries an answer, and null where there is nothing to answer', () => {
    expect(carried(encodeAnswer(7, { a: [1, 'x'] }))).toEqual({ kind: 'answer', id: 7, result: { a: [1, 'x'] } });
    expect(carried(encodeAnswer('b', undefined))).toEqual({ kind: 'answer', id: 'b', result: null });
  });

  it.each(Object.keys(errorTable) as ErrorCode[])('carries the error %s with its number, field, waiting time and action', (code) => {
    const error = new UkeyError(code, 'what happened', { field: 'lines[3].unitPrice', retryAfterMs: 250, action: 'Do this.' });
    const message = carried(encodeRefusal(9, error));
    expect(message).toMatchObject({ kind: 'refusal', id: 9 });
    const back = message.kind === 'refusal' ? message.error : null;
    expect(back).toMatchObject({ code, message: 'what happened', field: 'lines[3].unitPrice', retryAfterMs: 250, action: 'Do this.' });
    expect(encodeRefusal(9, error)).toContain(`"code":${errorTable[code].rpcCode},`);
  });

  it('carries an error that belongs to no request', () => {
    expect(carried(encodeRefusal(null, new UkeyError('too-large', 'x')))).toMatchObject({ kind: 'refusal', id: null });
  });

  it('reads a code of a newer service as internal', () => {
    const message = framed('{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m","data":{"code":"not-yet-known"}}}');
    expect(message).toMatchObject({ kind: 'refusal', error: { code: 'internal' } });
  });

  it('carries an event with its members', () => {
    const notice = { event: 'limit', at: '2026-01-01T00:00:00Z', percent: 75 };
    expect(carried(encodeEvent(notice))).toEqual({ kind: 'event', notice });
  });

  it('refuses to write what JSON cannot say', () => {
    expect(() => encodeAnswer(1, 1n)).toThrow(UkeyError);
  });

  it.each([
    ['an envelope that is no object', '[]', null],
    ['null', 'null', null],
    ['no type', '{"data":{}}', null],
    ['another type', '{"type":"other","data":{}}', null],
    ['a third member', '{"type":"ukey","data":{},"x":1}', null],
    ['no data', '{"type":"ukey"}', null],
    ['a batch', '{"type":"ukey","data":[]}', null],
    ['another JSON-RPC', '{"type":"ukey","data":{"jsonrpc":"1.0","id":1,"method":"m"}}', 1],
    ['a request without id', '{"type":"ukey","data":{"jsonrpc":"2.0","method":"m"}}', null],
    ['id null', '{"type":"ukey","data":{"jsonrpc":"2.0","id":null,"method":"m"}}', null],
    ['a fractional id', '{"type":"ukey","data":{"jsonrpc":"2.0","id":1.5,"method":"m"}}', null],
    ['an endless id', `{"type":"ukey","data":{"jsonrpc":"2.0","id":"${'i'.repeat(65)}","method":"m"}}`, null],
    ['an id that is an object', '{"type":"ukey","data":{"jsonrpc":"2.0","id":{},"method":"m"}}', null],
    ['a number as method', '{"type":"ukey","data":{"jsonrpc":"2.0","id":2,"method":5}}', 2],
    ['an endless method', `{"type":"ukey","data":{"jsonrpc":"2.0","id":2,"method":"${'m'.repeat(65)}"}}`, 2],
    ['params as an array', '{"type":"ukey","data":{"jsonrpc":"2.0","id":3,"method":"m","params":[1]}}', 3],
    ['params null', '{"type":"ukey","data":{"jsonrpc":"2.0","id":3,"method":"m","params":null}}', 3],
    ['an unknown member', '{"type":"ukey","data":{"jsonrpc":"2.0","id":4,"method":"m","auth":1}}', 4],
    ['neither method nor result', '{"type":"ukey","data":{"jsonrpc":"2.0","id":4}}', 4],
    ['a double key in params', '{"type":"ukey","data":{"jsonrpc":"2.0","id":5,"method":"m","params":{"a":1,"a":2}}}', 5],
    ['an unsafe number in params', '{"type":"ukey","data":{"jsonrpc":"2.0","id":6,"method":"m","params":{"a":[1e99]}}}', 6],
    ['a double id', '{"type":"ukey","data":{"jsonrpc":"2.0","id":5,"id":6,"method":"m"}}', null],
    [
      'a double key in params beside an unusable id',
      '{"type":"ukey","data":{"jsonrpc":"2.0","id":[],"method":"m","params":{"a":1,"a":2}}}',
      null,
    ],
    ['an unsafe id', '{"type":"ukey","data":{"jsonrpc":"2.0","id":9007199254740993,"method":"m"}}', null],
  ])('is malformed with %s, and belongs to a request only where that is beyond doubt', (_, text, id) => {
    expect(read(text)).toMatchObject({ kind: 'malformed', id, error: { code: 'invalid-request' } });
  });

  it('names a bad field as the schema would: from params on', () => {
    expect(framed('{"jsonrpc":"2.0","id":5,"method":"m","params":{"lines":[{},{"q":1,"q":2}]}}')).toMatchObject({
      error: { field: 'lines[1].q' },
    });
  });

  it(`never throws, whatever the bytes (seed ${seed})`, () => {
    const base = Buffer.from(encodeRequest(1, 'invoice.get', { key: 'k', list: [1, 2, { a: 'é😀' }] }));
    const random = fc.uint8Array({ maxLength: 200 });
    const mutated = fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }).map((changes) => {
      const bytes = Buffer.from(base);
      for (const [at, byte] of changes) bytes[at] = byte;
      return new Uint8Array(bytes);
    });
    fc.assert(
      fc.property(fc.oneof(random, mutated), (bytes) => {
        const message = decodeFrame(bytes);
        if (message.kind === 'malformed') expect(message.error.code).toBe('invalid-request');
      }),
      { seed, numRuns: 3_000 },
    );
  });
});

describe('the frame cutter', () => {
  it(`finds the same frames however the bytes arrive (seed ${seed})`, () => {
    const frame = fc.uint8Array({ maxLength: 40 }).map((bytes) => bytes.filter((byte) => byte !== frameEnd));
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 12 }), fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (frames, sizes) => {
        const stream = Buffer.concat(frames.flatMap((one) => [one, Buffer.of(frameEnd)]));
        const cutter = new FrameCutter();
        const found: number[][] = [];
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const size = sizes[turn % sizes.length] ?? 1;
          cutter.push(stream.subarray(at, at + size));
          at += size;
          for (let one = cutter.take(40); one !== null; one = cutter.take(40)) found.push([...one]);
        }
        expect(found).toEqual(frames.map((one) => [...one]));
        expect(cutter.unfinishedBytes).toBe(0);
      }),
      { seed, numRuns: 300 },
    );
  });

  it('refuses a frame as soon as it is too long, finished or not', () => {
    const cutter = new FrameCutter();
    cutter.push(Buffer.alloc(10, 0x61));
    expect(cutter.take(10)).toBeNull();
    cutter.push(Buffer.alloc(1, 0x61));
    expect(() => cutter.take(10)).toThrow(expect.objectContaining({ code: 'too-large' }));
    const whole = new FrameCutter();
    whole.push(Buffer.from(`${'a'.repeat(11)}\f`));
    expect(() => whole.take(10)).toThrow(expect.objectContaining({ code: 'too-large' }));
  });
});

describe('the handshake', () => {
  const handshake = { challenge: '00'.repeat(32), nonce: '11'.repeat(32), terminal: 'till-1' };
  const secret = Buffer.from('22'.repeat(32), 'hex');

  it('gives the MACs that any language computes from the text of SPEC.md', () => {
    // echo -n with the four lines | openssl dgst -sha256 -mac HMAC -macopt hexkey:2222..
    expect(clientMac(secret, handshake)).toBe('49d1d273e21c2aba4f8b9beb2d91b63ea470cddd522f08335bdb26cf46af07a7');
    expect(serviceMac(secret, handshake)).toBe('bd1be7efee2329078a64600102c18f86650a879e8aa01cc5bb712a3360f92d34');
  });

  it('compares whole MACs only', () => {
    const mac = clientMac(secret, handshake);
    expect(macEquals(mac, mac)).toBe(true);
    for (const other of [
      '',
      mac.slice(0, 63),
      `${mac}0`,
      mac.toUpperCase(),
      serviceMac(secret, handshake),
      '0'.repeat(64),
      `${mac.slice(0, 62)}é`,
    ])
      expect(macEquals(mac, other)).toBe(false);
    expect(macEquals('0'.repeat(64), 'not hex')).toBe(false);
  });

  it.each([
    ['challenge', '33'.repeat(32)],
    ['nonce', '33'.repeat(32)],
    ['terminal', 'till-2'],
  ])('depends on the %s', (member, value) => {
    expect(clientMac(secret, { ...handshake, [member]: value })).not.toBe(clientMac(secret, handshake));
  });
});
