// The HTTPS side: what is answered to strangers, and the limits.

import { X509Certificate } from 'node:crypto';
import { connect as connectPlain, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { mediaTypes, openProbe, paths, tokenListSchema, uploadMaxBytes } from '#ipc-schema/upstream.ts';
import type { Database } from '#server/database.ts';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { defaultWaits, type HttpWaits, maxConnections, maxUploads } from '#server/http.ts';
import { escapeHtml, tokensPage } from '#server/page.ts';
import { refusalIn, ServerRig } from '#test/support/server-rig.ts';

let rig: ServerRig;
const waits = { ...defaultWaits, headersMs: 300, requestMs: 600, idleMs: 900, handshakeMs: 300, lingerMs: 300, closeMs: 300 };

beforeAll(async () => {
  rig = await ServerRig.start({ waits });
});
afterAll(async () => await rig.stop());

const dial = async ({ server }: ServerRig = rig): Promise<TLSSocket> => {
  const ca = new X509Certificate(server.authorityCertificate).toString();
  const socket = connect({ port: server.port, host: '127.0.0.1', ca });
  await new Promise<void>((resolve, reject) => socket.once('secureConnect', () => resolve()).once('error', reject));
  return socket;
};

/** All that comes until the other side ends. */
const drain = async (socket: Socket): Promise<string> => {
  let text = '';
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
  });
  socket.resume();
  await new Promise<void>((resolve) => socket.once('close', () => resolve()).on('error', () => resolve()));
  return text;
};

describe('a probe', () => {
  test('is answered with its nonce and the server’s time, under the key of the charter', async () => {
    const { charter } = await rig.enrol();
    const nonce = Buffer.alloc(16, 0xa5);
    const reply = await rig.client.ask(`${paths.probe}?nonce=${nonce.toString('hex')}`);
    const answer = openProbe(reply.body, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')), nonce);
    expect(Math.abs(answer.serverTimeMs - Date.now())).toBeLessThan(5_000);
    expect(() => openProbe(reply.body, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')), Buffer.alloc(16))).toThrow(
      expect.objectContaining({ code: 'invalid-request' }),
    );
  });

  test.each(['', '?nonce=', '?nonce=zz', `?nonce=${'A5'.repeat(16)}`, `?nonce=${'a5'.repeat(17)}`, `?nonce=${'a5'.repeat(16)}&more=1`])(
    'without a good nonce is refused: %s',
    async (query) => {
      expect(refusalIn(await rig.client.ask(`${paths.probe}${query}`))).toMatchObject({ status: 400, code: 'bad-request' });
    },
  );
});

describe('a request', () => {
  test.each([
    ['GET', '/nowhere', 404],
    ['GET', '/v1/tokens/xyz', 404],
    ['POST', '/v1/tokens', 404],
    ['DELETE', '/v1/tokens', 405],
    ['GET', `/v1/tokens/${'0'.repeat(32)}`, 404],
    ['GET', `/v1/tokens/${'0'.repeat(32)}/entries`, 404],
    ['GET', '/v1/tokens?limit=0', 400],
    ['GET', '/v1/tokens?limit=501', 400],
    ['GET', '/v1/tokens?limit=5&limit=5', 400],
    ['GET', '/v1/authority?x=1', 400],
    ['POST', '/v1/batches', 400],
    ['POST', '/v1/enrol', 400],
  ])('%s %s is refused with %i, as JSON of the contract', async (method, path, status) => {
    expect(
      refusalIn(await rig.client.ask(path, { method, ...(method === 'POST' ? { body: Buffer.from('{}'), type: 'application/json' } : {}) }))
        .status,
    ).toBe(status);
  });

  test.each(['sequence=1&number=A', 'sequence=0', 'sequence=1e3', 'from=-1', 'limit=201', `number=${'A'.repeat(65)}`, 'colour=red'])(
    'for entries with %s is refused',
    async (query) => {
      const { token } = await rig.enrol();
      expect(refusalIn(await rig.client.ask(`${paths.tokens}/${token.tokenId}/entries?${query}`))).toMatchObject({
        status: 400,
        code: 'bad-request',
      });
    },
  );

  test('for all tokens is answered in pages', async () => {
    const ids: string[] = [];
    for (let at = 0; at < 3; at++) ids.push((await rig.enrol()).token.tokenId);
    const seen: string[] = [];
    for (let after = ''; ; ) {
      const reply = await rig.client.ask(`${paths.tokens}?limit=2${after === '' ? '' : `&after=${after}`}`);
      const { tokens } = tokenListSchema.parse(JSON.parse(reply.body.toString('utf8')));
      if (tokens.length === 0) break;
      seen.push(...tokens.map((token) => token.tokenId));
      after = seen.at(-1) ?? '';
    }
    expect(seen).toEqual(expect.arrayContaining(ids));
    expect(new Set(seen).size).toBe(seen.length);
  });

  test('whose body is larger than its path allows is refused before it is read, said or not', async () => {
    const body = Buffer.alloc(uploadMaxBytes + 70_000);
    expect(refusalIn(await rig.client.ask(paths.enrol, { body: Buffer.alloc(17_000), type: mediaTypes.cose }))).toMatchObject({
      status: 413,
      code: 'too-large',
    });
    const said = await dial();
    said.write(`POST ${paths.batches} HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n`);
    expect(await drain(said)).toMatch(/^HTTP\/1\.1 413 /);
    const unsaid = await dial();
    unsaid.write(`POST ${paths.batches} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n`);
    unsaid.write(body);
    // A client that reads only after it has written everything still gets the answer.
    expect(refusalIn(await rig.client.ask(paths.batches, { body, type: mediaTypes.upload }))).toMatchObject({
      status: 413,
      code: 'too-large',
    });
    expect(await drain(unsaid)).toMatch(/^HTTP\/1\.1 413 /);
  });

  test('that meets a fault of ours gets no word of it', async () => {
    const other = await ServerRig.start();
    const database: Database = openSqliteDatabase(join(other.directory, 'tickets.db'));
    await other.restart({ database });
    database.listTokens = async () => {
      throw new Error('secret detail');
    };
    const reply = await other.client.ask(paths.tokens);
    expect(refusalIn(reply)).toMatchObject({ status: 500, code: 'internal' });
    expect(reply.body.toString('utf8')).not.toContain('secret');
    await other.stop();
  });

  test('above the number of uploads that are held is told to come again', async () => {
    const other = await ServerRig.start();
    const database: Database = openSqliteDatabase(join(other.directory, 'tickets.db'));
    const enrolled = await other.enrol();
    await other.restart({ database });
    const findToken = database.findToken.bind(database);
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    database.findToken = async (tokenId) => {
      await held;
      return await findToken(tokenId);
    };
    const batch = enrolled.token.batch(1);
    let refused = 0;
    const replies = await Promise.all(
      Array.from({ length: maxUploads + 3 }, async () => {
        const reply = await other.send(enrolled, [batch]);
        if (reply.status === 503 && ++refused === 3) release(); // all others are held by now, or on their way to be
        return reply;
      }),
    );
    expect(replies.map((reply) => reply.status).sort()).toEqual([...Array(maxUploads).fill(200), 503, 503, 503]);
    const busy = replies.filter((reply) => reply.status === 503);
    expect(busy.map((reply) => refusalIn(reply).code)).toEqual(['busy', 'busy', 'busy']);
    expect(Number(busy[0]?.headers['retry-after'])).toBeGreaterThan(0);
    await other.stop();
  });
});

describe('bodies that only trickle in', () => {
  test('keep nobody else from being answered, however many', async () => {
    const other = await ServerRig.start();
    const slow = await Promise.all(Array.from({ length: 80 }, () => dial(other)));
    for (const socket of slow) socket.write(`POST ${paths.enrol} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect((await other.client.ask(`${paths.probe}?nonce=${'ab'.repeat(16)}`)).status).toBe(200);
    for (const socket of slow) socket.destroy();
    await other.stop();
  });

  test('of uploads take nobody’s place, however many and however fast they trickle', async () => {
    const other = await ServerRig.start();
    const enrolled = await other.enrol();
    const slow = await Promise.all(Array.from({ length: 3 * maxUploads }, () => dial(other)));
    for (const socket of slow) socket.write(`POST ${paths.batches} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n`);
    const trickle = setInterval(() => {
      for (const socket of slow) socket.write(Buffer.alloc(1_000));
    }, 20);
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (let at = 0; at < 5; at += 1) expect((await other.send(enrolled, [enrolled.token.batch(1)])).status).toBe(200);
    expect(slow.filter((socket) => socket.readyState !== 'open')).toEqual([]);
    clearInterval(trickle);
    for (const socket of slow) socket.destroy();
    await other.stop();
  });

  test('of uploads that hold more memory than there is for all of them give way, and are told so', async () => {
    const other = await ServerRig.start();
    const enrolled = await other.enrol();
    const big = await Promise.all(Array.from({ length: maxUploads + 2 }, () => dial(other)));
    const told = big.map((socket) => drain(socket));
    for (const socket of big) {
      socket.write(`POST ${paths.batches} HTTP/1.1\r\nhost: x\r\ncontent-length: ${uploadMaxBytes + 60_000}\r\n\r\n`);
      socket.write(Buffer.alloc(uploadMaxBytes + 50_000));
    }
    expect(await Promise.any(told)).toMatch(/^HTTP\/1\.1 503 /);
    expect((await other.send(enrolled, [enrolled.token.batch(1)])).status).toBe(200);
    for (const socket of big) socket.destroy();
    await other.stop();
  });
});

describe('answers', () => {
  /** A server with a run of batches of more than `answerBytes`; a reader that has asked for it and takes nothing yet. */
  async function library(waits: Partial<HttpWaits>) {
    const other = await ServerRig.start();
    const enrolled = await other.enrol();
    const documents = Array.from({ length: 26 }, () => ({ kind: 'document' as const, fillerBytes: 20_000 }));
    for (let at = 0; at < 8; at += 1) await other.acknowledged(enrolled, [enrolled.token.batch(documents)]);
    await other.restart({ waits: { ...defaultWaits, ...waits } });
    const path = `${paths.tokens}/${enrolled.token.tokenId}/batches`;
    /** Several times at once: the kernel alone holds one answer. */
    const ask = async (times = 1): Promise<TLSSocket> => {
      const socket = await dial(other);
      socket.pause();
      const head = `GET ${path} HTTP/1.1\r\nhost: x\r\n`;
      socket.write(`${`${head}\r\n`.repeat(times - 1)}${head}connection: close\r\n\r\n`);
      return socket;
    };
    return { other, path, ask, answerBytes: 3_500_000 };
  }

  test('that nobody reads are cut when their memory is needed, and the rest goes to whoever reads', async () => {
    const { other, path, ask, answerBytes } = await library({ stillMs: 200 });
    const deaf = await Promise.all(Array.from({ length: 32 }, async () => await ask()));
    await new Promise((resolve) => setTimeout(resolve, 500));
    const reply = await other.client.ask(path);
    expect([reply.status, reply.body.length > answerBytes]).toEqual([200, true]);
    const heard = await Promise.all(deaf.map((socket) => drain(socket)));
    expect(heard.filter((text) => text.length > answerBytes).length).toBeLessThan(20);
    await other.stop();
  });

  test('that nobody reads are cut after their time, which a slow reader keeps', async () => {
    const { other, ask, answerBytes } = await library({ sendMs: 300, sendMebibyteMs: 0 });
    const deaf = await ask(6);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect((await drain(deaf)).length).toBeLessThan(4 * answerBytes);
    const { server } = other;
    await other.restart({ waits: { ...defaultWaits, sendMs: 300, sendMebibyteMs: 10_000 }, port: server.port });
    const slow = await ask(6);
    let length = 0;
    slow.on('data', (piece: Buffer) => {
      length += piece.length;
      slow.pause();
      setTimeout(() => slow.resume(), 1);
    });
    slow.resume();
    await new Promise((resolve) => slow.once('close', resolve));
    expect(length).toBeGreaterThan(6 * answerBytes);
    await other.stop();
  });
});

describe('a connection', () => {
  test('makes room for a newcomer when there are too many: the one that has owed a request longest', async () => {
    const other = await ServerRig.start();
    const held: Socket[] = [];
    const cut: number[] = [];
    for (let at = 0; at < maxConnections; at += 1) {
      const socket = connectPlain(other.server.port, '127.0.0.1');
      socket.on('error', () => undefined).once('close', () => cut.push(at));
      await new Promise((resolve) => socket.once('connect', resolve));
      held.push(socket);
    }
    expect((await other.client.ask(`${paths.probe}?nonce=${'ab'.repeat(16)}`)).status).toBe(200);
    expect((await other.client.ask(paths.tokens)).status).toBe(200);
    await expect.poll(() => cut).toEqual([0]);
    for (const socket of held) socket.destroy();
    await other.stop();
  });

  test('on which a small body does not come to its end is cut sooner than an upload', async () => {
    const other = await ServerRig.start({ waits: { ...defaultWaits, smallBodyMs: 200 } });
    const bodyOf = async (path: string): Promise<TLSSocket> => {
      const socket = await dial(other);
      socket.write(`POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
      return socket;
    };
    const [small, upload] = [await bodyOf(paths.enrol), await bodyOf(paths.batches)];
    expect(await drain(small)).toBe('');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(upload.readyState).toBe('open');
    upload.destroy();
    await other.stop();
  });

  test('that speaks no TLS, or only TLS 1.1, is cut', async () => {
    const plain = connectPlain(rig.server.port, '127.0.0.1');
    plain.write('GET / HTTP/1.1\r\n\r\n');
    expect(await drain(plain)).not.toContain('200');
    const old = connect({
      port: rig.server.port,
      host: '127.0.0.1',
      maxVersion: 'TLSv1.1',
      minVersion: 'TLSv1',
      ciphers: 'DEFAULT@SECLEVEL=0',
      rejectUnauthorized: false,
    });
    expect(await new Promise((resolve) => old.once('secureConnect', () => resolve('open')).once('error', () => resolve('cut')))).toBe(
      'cut',
    );
  });

  test('that never shakes hands, never ends its headers, or never ends its body is cut', async () => {
    const silent = connectPlain(rig.server.port, '127.0.0.1');
    const headless = await dial();
    headless.write('GET / HTTP/1.1\r\nhost: x\r\n');
    const endless = await dial();
    endless.write(`POST ${paths.enrol} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
    await Promise.all([drain(silent), drain(headless), drain(endless)]);
  }, 10_000);

  test('that is open when the server closes is cut after a while, at whatever stage', async () => {
    const other = await ServerRig.start({ waits });
    const ca = new X509Certificate(other.server.authorityCertificate).toString();
    const silent = connectPlain(other.server.port, '127.0.0.1');
    const open = connect({ port: other.server.port, host: '127.0.0.1', ca });
    open.write('GET / HTTP/1.1\r\n');
    await new Promise((resolve) => open.once('secureConnect', resolve));
    const cut = Promise.all([drain(silent), drain(open)]);
    await other.stop();
    await cut;
  });

  test('that goes away in the middle of a body leaves the server well', async () => {
    const socket = await dial();
    socket.write(`POST ${paths.enrol} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
    await new Promise((resolve) => setTimeout(resolve, 30));
    socket.destroy();
    expect((await rig.client.ask(paths.tokens)).status).toBe(200);
  });
});

describe('the page', () => {
  test('lists tokens without a script', async () => {
    const { token } = await rig.enrol();
    const reply = await rig.client.ask('/');
    expect(reply.headers['content-type']).toMatch(/^text\/html/);
    expect(reply.headers['content-security-policy']).toContain("default-src 'none'");
    expect(reply.body.toString('utf8')).toContain(token.tokenId);
    expect(reply.body.toString('utf8')).not.toContain('<script');
  });

  test('escapes what tokens say of themselves', () => {
    expect(escapeHtml(`<b a="1" c='2'>&`)).toBe('&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;');
    const hostile = '<script>alert(1)</script>';
    const alarm = { kind: 'fork', batchIndex: 1, raisedAt: '2026-01-01T00:00:00.000Z', detail: hostile } as const;
    const page = tokensPage(
      [{ tokenId: 'a', serial: hostile, issuer: hostile, upToBatch: 0, lastSequence: 0, invoices: 0, lastContact: null, alarm }],
      false,
    );
    expect(page).not.toContain('<script');
  });
});
