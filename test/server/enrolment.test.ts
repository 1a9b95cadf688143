// Enrolment: a ticket from headquarters becomes certificate, charter and templates for exactly one key.
import { createHash, createPublicKey, generateKeyPairSync, sign, X509Certificate } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decodeSign1, keyIdOf, makeSign1 } from '#ipc-schema/cose.ts';
import { openTemplate } from '#ipc-schema/template.ts';
import { enrolmentPayload, mediaTypes, parseTicket, paths } from '#ipc-schema/upstream.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { grantOptions, HttpsClient, type Reply, refusalIn, ServerRig } from '#test/support/server-rig.ts';

let rig: ServerRig;

beforeAll(async () => {
  rig = await ServerRig.start();
});
afterAll(async () => await rig.stop());

const enrol = async (body: Uint8Array): Promise<Reply> => await rig.client.ask(paths.enrol, { body, type: mediaTypes.cose });

describe('a ticket', () => {
  test('names the server, the authority and a code, in the form of the contract', async () => {
    const ticket = parseTicket(await rig.server.createTicket(grantOptions()));
    expect(ticket.url).toBe(rig.server.url);
    expect(ticket.authorityFingerprint).toBe(
      createHash('sha256')
        .update(Buffer.from(ticket.tlsCertificate ?? '', 'base64'))
        .digest('hex'),
    );
    expect(ticket.authorityFingerprint).toBe(rig.server.authorityFingerprint);
  });

  test.each([
    [
      'a series that ends before it begins',
      { series: [{ kind: 'invoice' as const, prefix: 'A-', digits: 4, first: 9, last: 8 }] },
      'series',
    ],
    ['a template that is not there', { templates: ['nowhere'] }, 'templates'],
    ['a template twice', { templates: ['retail', 'retail'] }, 'templates'],
    ['another currency than its template has', { currency: 'EUR' }, 'templates'],
    ['an unknown option', { colour: 'red' }, 'colour'],
    ['a URL that is not https', { serverUrl: 'http://x' }, 'serverUrl'],
  ])('is not made for %s', async (_what, change, field) => {
    await expect(rig.server.createTicket(grantOptions(change as object))).rejects.toMatchObject({ code: 'invalid-request', field });
  });

  test('carries templates of the data directory', async () => {
    const retail = JSON.parse(await readFile(new URL('../../server/templates/retail.json', import.meta.url), 'utf8')) as object;
    const { mkdir } = await import('node:fs/promises');
    await mkdir(join(rig.directory, 'templates'));
    await writeFile(join(rig.directory, 'templates', 'cafe.json'), JSON.stringify({ ...retail, id: 'cafe' }));
    const { enrolment } = await rig.enrol(new BuiltToken(), { templates: ['cafe', 'retail'] });
    const authority = new X509Certificate(Buffer.from(enrolment.authorityCertificate, 'base64')).publicKey;
    const ids = enrolment.templates.map((template) => openTemplate(Buffer.from(template, 'base64'), authority).id);
    expect(ids).toEqual(['cafe', 'retail']);
  });

  test('carries the URL of what stands in front of the server', async () => {
    const { charter } = await rig.enrol(new BuiltToken(), { serverUrl: 'https://127.0.0.1:9' });
    expect(charter.server.url).toBe('https://127.0.0.1:9');
  });
});

describe('an enrolment', () => {
  test.each(['ES256', 'RS256'] as const)('gives a token with a key for %s its certificate, charter and template', async (algorithm) => {
    const { token, enrolment, charter } = await rig.enrol(new BuiltToken(algorithm));
    const certificate = new X509Certificate(Buffer.from(enrolment.certificate, 'base64'));
    const authority = new X509Certificate(Buffer.from(enrolment.authorityCertificate, 'base64'));
    expect(certificate.publicKey.export({ type: 'spki', format: 'der' })).toEqual(token.spki);
    expect(certificate.verify(authority.publicKey)).toBe(true);
    expect(certificate.checkIssued(authority)).toBe(true);
    expect(certificate.ca).toBe(false);
    expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
    expect(charter).toMatchObject({ tokenId: token.tokenId, serial: 1, mode: 'hybrid', keepDays: 30 });
    expect(Buffer.from(charter.server.sealKey, 'base64')).toHaveLength(65);
    expect(Buffer.from(charter.server.recoveryKey ?? '', 'base64')).toHaveLength(65);
    expect(openTemplate(Buffer.from(enrolment.templates[0] ?? '', 'base64'), authority.publicKey).id).toBe('retail');
  });

  test('gives a charter that locks an idle token where that was asked for, and else one that says nothing of it', async () => {
    const { enrolment } = await rig.enrol();
    const payload = decodeSign1(Buffer.from(enrolment.charter, 'base64'), 'charter').payload;
    expect(Object.keys(JSON.parse(Buffer.from(payload).toString('utf8')))).not.toContain('lockAfterIdleMinutes');
    const { charter } = await rig.enrol(new BuiltToken(), { lockAfterIdleMinutes: 45 });
    expect(charter.lockAfterIdleMinutes).toBe(45);
    for (const lockAfterIdleMinutes of [0, 1.5, -1, 7 * 24 * 60 + 1])
      await expect(rig.server.createTicket(grantOptions({ lockAfterIdleMinutes }))).rejects.toMatchObject({
        code: 'invalid-request',
        field: 'lockAfterIdleMinutes',
      });
  });

  test('asked for again by the same key gives the very same answer, and by another key none', async () => {
    const ticket = await rig.server.createTicket(grantOptions());
    const token = new BuiltToken();
    const first = await enrol(token.enrolment(ticket.code));
    const second = await enrol(token.enrolment(ticket.code));
    expect(first.status).toBe(200);
    expect(second.body).toEqual(first.body);
    expect(refusalIn(await enrol(new BuiltToken().enrolment(ticket.code)))).toMatchObject({ status: 403, code: 'code-unknown' });
  });

  test('asked for by eight keys at once with one code is given to one', async () => {
    const ticket = await rig.server.createTicket(grantOptions());
    const replies = await Promise.all(Array.from({ length: 8 }, async () => await enrol(new BuiltToken().enrolment(ticket.code))));
    expect(replies.map((reply) => reply.status).sort()).toEqual([200, 403, 403, 403, 403, 403, 403, 403]);
  });

  test('of a key that is enrolled already leaves the code for another', async () => {
    const { token } = await rig.enrol();
    const ticket = await rig.server.createTicket(grantOptions());
    expect(refusalIn(await enrol(token.enrolment(ticket.code)))).toMatchObject({ status: 400, code: 'bad-request' });
    expect((await enrol(new BuiltToken().enrolment(ticket.code))).status).toBe(200);
  });

  test('with a code that nobody made, or that is too old, is refused', async () => {
    expect(refusalIn(await enrol(new BuiltToken().enrolment('A'.repeat(26))))).toMatchObject({ status: 403, code: 'code-unknown' });
    let nowMs = Date.now();
    const other = await ServerRig.start({ wallMs: () => nowMs });
    try {
      const ticket = await other.server.createTicket(grantOptions({ ticketHours: 1 }));
      nowMs += 3_600_000;
      const reply = await other.client.ask(paths.enrol, { body: new BuiltToken().enrolment(ticket.code), type: mediaTypes.cose });
      expect(refusalIn(reply).code).toBe('code-unknown');
    } finally {
      await other.stop();
    }
  });

  test('without proof that the sender holds the key is refused and uses no code', async () => {
    const ticket = await rig.server.createTicket(grantOptions());
    const [token, thief] = [new BuiltToken(), new BuiltToken()];
    const payload = enrolmentPayload({ spki: token.spki, serial: 'S', code: ticket.code });
    const stolen = thief.sign(payload); // names the thief's key, holds the token's
    expect(refusalIn(await enrol(stolen))).toMatchObject({ status: 400, code: 'bad-request' });
    const broken = Buffer.from(token.enrolment(ticket.code));
    broken[broken.length - 1] = (broken[broken.length - 1] ?? 0) ^ 1;
    expect(refusalIn(await enrol(broken)).status).toBe(400);
    expect(refusalIn(await enrol(Buffer.from('not COSE'))).status).toBe(400);
    expect((await enrol(token.enrolment(ticket.code))).status).toBe(200);
  });

  test.each(['P-384 key', 'RSA key of 1024 bits'])('of a %s is refused', async (what) => {
    const ticket = await rig.server.createTicket(grantOptions());
    const isRsa = what.startsWith('RSA');
    const pair = isRsa ? generateKeyPairSync('rsa', { modulusLength: 1024 }) : generateKeyPairSync('ec', { namedCurve: 'P-384' });
    const spki = pair.publicKey.export({ type: 'spki', format: 'der' });
    const body = makeSign1(
      isRsa ? 'RS256' : 'ES256',
      keyIdOf(pair.publicKey),
      enrolmentPayload({ spki, serial: 'S', code: ticket.code }),
      (message) => sign('sha256', message, isRsa ? pair.privateKey : { key: pair.privateKey, dsaEncoding: 'ieee-p1363' }),
    );
    expect(refusalIn(await enrol(body)).code).toBe('bad-request');
  });
});

describe('the authority', () => {
  test('keeps its keys over a restart, for its owner alone', async () => {
    const other = await ServerRig.start();
    try {
      const { authorityFingerprint } = other.server;
      const before = await other.enrol();
      await other.restart();
      const after = await other.enrol();
      expect(other.server.authorityFingerprint).toBe(authorityFingerprint);
      expect(after.charter.server).toEqual(before.charter.server);
      for (const name of ['authority.json', 'tls.json', 'tickets.db'])
        expect((await stat(join(other.directory, name))).mode & 0o777).toBe(0o600);
    } finally {
      await other.stop();
    }
  });

  test('of another directory does not open this database', async () => {
    const [one, two] = [await ServerRig.start(), await ServerRig.start()];
    await writeFile(join(one.directory, 'authority.json'), await readFile(join(two.directory, 'authority.json')));
    await expect(one.restart()).rejects.toMatchObject({ code: 'halted' });
    await two.stop();
  });

  test('shows its certificate, which signs what TLS shows; another authority is no match', async () => {
    const reply = await rig.client.ask(paths.authority);
    expect(createHash('sha256').update(reply.body).digest('hex')).toBe(rig.server.authorityFingerprint);
    expect(createPublicKey(new X509Certificate(reply.body).publicKey.export({ type: 'spki', format: 'pem' })).asymmetricKeyType).toBe('ec');
    const other = await ServerRig.start();
    const stranger = new HttpsClient(rig.server.url, other.server.authorityCertificate);
    await expect(stranger.ask(paths.authority)).rejects.toThrow();
    stranger.close();
    await other.stop();
  });
});
